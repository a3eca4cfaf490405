"""What the edit benchmark and the sample benchmark share: a model, synthetic scenes, and a folder of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm.evaluation.edit_judges import Judge
from ldm.evaluation.report import write_report
from ldm.evaluation.runner import Job, Measure, run_jobs, source_digest
from ldm.evaluation.task_sources import TaskSource, find_judge, find_tasks
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.models.loading import fingerprint, load_model
from ldm.util.config_merging import ConfigPaths
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, writable_folder
from ldm.util.processes import available_cores

JOBS_PER_WORKER = 100  # below, starting a process and loading the model takes longer than it saves


@dataclass(frozen=True)
class Benchmark:
    """A model, the scenes on which it is measured, and where the results go.

    Args:
        name: of the benchmark, for the default folder and the progress bar.
        scenes: kind of synthetic scenes, a key of `ldm.synthetic.worlds.READERS`, or photographs.
        count: edits of each operation, or scenes of each kind; fewer where a folder has no more.
        first: number of the first scene of the validation set.
        checkpoint: path of the weights; None for those of the config.
        config: path of the model's config, or several paths; None for the one stored in the checkpoint.
        device: where the model is run.
        workers: processes; None for a number that suits the number of jobs.
        outdir: folder of the results; None for one that is named after the scenes and the weights.
        tasks: folder of rendered scenes and their edits, for scenes that cannot be drawn, of CLEVR's pictures, or of photographs.
        classifier: weights of what judges edits: a classifier of photographs, or a checker of CLEVR's pictures.
    """

    name: str
    scenes: str = "shapes"
    count: int = 200
    first: int = 0
    checkpoint: str | None = None
    config: ConfigPaths | None = None
    device: str = "cpu"
    workers: int | None = None
    outdir: str | None = None
    tasks: str | None = None
    classifier: str | None = None

    @property
    def judge(self) -> Judge:
        """What judges edits."""
        return find_judge(self.scenes, self.classifier)

    @property
    def source(self) -> TaskSource:
        """The scenes and tasks. Raises UserError, see `find_tasks`."""
        return find_tasks(self.scenes, self.tasks, self.classifier)

    def numbers(self, known: int | None, kind: str) -> range:
        """Numbers of scenes, tasks or clips.

        Args:
            known: how many the source has; None for any number.
            kind: what they are, for the message.

        Raises:
            UserError: the source has none from the first one on.
        """
        last = self.first + self.count if known is None else min(self.first + self.count, known)
        if last <= self.first:
            raise UserError(
                f"--tasks {self.tasks} has {known} {kind}, none from number {self.first} (--seed-offset) on"
            )
        return range(self.first, last)

    def load_model(self, graphs: Sequence[SceneGraph] = ()) -> LatentDiffusion:
        """Loads the model on the CPU.

        Args:
            graphs: some that the model must have words and slots for.

        Raises:
            UserError: there is no such model, or it does not know the words of a graph.
        """
        model = load_model(self.checkpoint, self.config)
        assert model.vocab is not None
        for graph in graphs:
            graph.validate(model.vocab, f"the scenes {self.scenes!r}", model.cond_stage_model.max_objects)
        return model

    def measure(
        self,
        model: LatentDiffusion,
        options: dict,
        jobs: Sequence[Job],
        prepare: Callable[[], Measure],
        is_current: Callable[[Job, dict], bool] = lambda job, row: True,
    ) -> tuple[Path, dict, list[dict]]:
        """Measures the jobs whose rows are not in the folder yet.

        Args:
            model: the model of this benchmark, whose weights identify the rows.
            options: what the rows depend on besides jobs, scenes, weights and code; JSON values.
            prepare, is_current: see `ldm.evaluation.runner.run_jobs`.

        Returns:
            The folder, the protocol for the report, and the rows in the order of `jobs`.

        Raises:
            UserError: the folder cannot be written to, or holds rows that were measured otherwise.
        """
        weights = fingerprint(model)
        settings = {"scenes": self.scenes, "weights": weights, **options, "code of ldm/": source_digest()}
        if tasks := self.source.identity():
            settings["tasks"] = tasks
        default_folder = f"outputs/{self.name}-{self.scenes}-{weights[:8]}"
        folder = writable_folder(self.outdir or default_folder, "--outdir")
        useful_workers = 1 + len(jobs) // JOBS_PER_WORKER if self.device == "cpu" else 1
        workers = self.workers or min(useful_workers, available_cores())
        rows = run_jobs(folder, settings, jobs, prepare, workers, self.name, is_current)
        return folder, {**settings, "seed_offset": self.first, "workers": workers, "device": self.device}, rows


@dataclass(frozen=True)
class BenchmarkReport:
    """The results of a benchmark.

    Args:
        folder: where rows and pictures are, and where `write` puts the report.
        protocol: settings and definitions that a reader needs to compare the numbers.
        results: a summary for each group of rows.
        table: the summaries in Markdown.
        remarks: sentences that are printed below the table.
    """

    folder: Path
    protocol: dict
    results: list[dict]
    table: str
    remarks: tuple[str, ...] = ()

    def write(self, arguments: Mapping) -> None:
        """Writes report.json, with the arguments of the command, and table.md."""
        report = {"protocol": self.protocol, "results": self.results}
        write_report(self.folder / "report.json", report, arguments)
        with atomic_write(self.folder / "table.md") as temporary:
            temporary.write_text(self.table)
