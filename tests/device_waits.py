"""Where a CPU would wait for a GPU: torch's `meta` device, which has no values to read, stands for the GPU."""

import traceback

import pytorch_lightning as pl
import torch
from paths import ROOT
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

GPU = torch.device("meta")
READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "unique")  # they need values


class Making(TorchFunctionMode):
    """Notes where a tensor of the device is made of numbers, which are moved at once."""

    def __init__(self, waits: "Waits"):
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        if made and result.device == GPU and not isinstance(args[-1], torch.Tensor):
            self.waits.note(function.__name__)
        return result


class Waits(TorchDispatchMode):
    """Notes in `found` where values of the device are read, or tensors are moved at once (not `non_blocking`)."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.making = Making(self)
        self.watching = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        on_gpu = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.device == GPU]
        if on_gpu and name.startswith(READING):
            self.note(name)
            return invented(name, args[0])
        if name in ("_to_copy", "copy_"):
            source, target = (args[0], kwargs.get("device")) if name == "_to_copy" else (args[1], args[0].device)
            if target not in (None, source.device):
                if not kwargs.get("non_blocking"):
                    self.note(f"{name} from {source.device} to {target}")
                if source.device == GPU:
                    return torch.full(source.shape, 0.5, dtype=source.dtype)
        return function(*args, **kwargs)

    def __enter__(self):
        self.making.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.making.__exit__(*error)

    def note(self, what: str) -> None:
        if self.watching:
            ours = [frame for frame in traceback.extract_stack() if str(ROOT / "ldm") in frame.filename]
            self.found.append(f"{what} at {ours[-1].filename}:{ours[-1].lineno}" if ours else what)


def invented(name: str, tensor: torch.Tensor):
    """What a device without values could have answered."""
    if name == "_local_scalar_dense":
        return True if tensor.dtype == torch.bool else 0.5 if tensor.is_floating_point() else 3
    return True if name == "equal" else torch.empty((2, tensor.ndim), dtype=torch.long, device=GPU)


def allow_autocast(monkeypatch) -> None:
    """Autocast knows no `meta` device; its contexts have no effect there."""
    asked, autocast = torch.is_autocast_enabled, torch.autocast
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: device != ("meta",) and asked(*device))
    monkeypatch.setattr(torch, "autocast", lambda kind, *args, **kw: autocast(kind.replace("meta", "cpu"), *args, **kw))


class NoDevice(CPUAccelerator):
    def setup_device(self, device):
        pass


def waits_of(model: pl.LightningModule, batches: list, *callbacks: pl.Callback, steps: int = 2) -> list[str]:
    """The waits of the last of a few training steps, its batch's transfer included."""
    waits = Waits()

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, model, outputs, batch, index):
            waits.watching = index == steps - 2

        def on_train_end(self, trainer, model):
            waits.watching = False

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.configure_optimizers = lambda: torch.optim.SGD(trained, 1e-3, foreach=True)
    trainer = pl.Trainer(
        strategy=SingleDeviceStrategy(GPU, accelerator=NoDevice()),
        max_steps=steps,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        callbacks=[*callbacks, Watch()],
        **dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False),
    )
    loader = DataLoader(range(steps), batch_size=None, collate_fn=lambda index: batches[index % len(batches)])
    with waits:
        trainer.fit(model, loader)
    return waits.found
