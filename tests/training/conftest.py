import pytest
import yaml
from toy_run import CONFIG

import trainer


@pytest.fixture
def config(tmp_path):
    """The path of a YAML file with CONFIG."""
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture
def train(config, tmp_path, capsys):
    """train(*flags) -> (exit code, new log folder or None, printed), of trainer.py run in this process."""

    def train(*flags, base=True):
        before = set((tmp_path / "logs").glob("*"))
        words = ["--base", str(config)] if base else []
        code = trainer.main(["--gpus", "cpu", "--logdir", str(tmp_path / "logs"), *words, *map(str, flags)])
        new = set((tmp_path / "logs").glob("*")) - before
        return code, new.pop() if new else None, capsys.readouterr()

    return train
