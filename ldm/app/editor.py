"""The editor behind the page: a model, its sessions, the worker, and what a job leaves in the tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ldm.app import graphs, views
from ldm.app.clips import ClipMaker, no_clips
from ldm.app.events import Hub
from ldm.app.examples import Examples
from ldm.app.jobs import Job, JobTable
from ldm.app.performing import Decode, Inputs, Made, Performer
from ldm.app.planning import describe_canvas, describe_plan
from ldm.app.reading import PictureReader, find_reader_of
from ldm.app.requests import EditAsked, Variant
from ldm.app.store import NewNode, Node, Store
from ldm.app.words import OpenResolver, Resolver, VocabResolver
from ldm.app.worker import Follower, Worker
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.models.loading import fingerprint
from ldm.words.open_words import OpenWords


class Editor:
    """One model and a folder of sessions.

    Args:
        model: in evaluation mode; nothing else may use it meanwhile.
        folder: of the sessions; made if it does not exist.
        name: of the model, for the page.
        model_words: the command-line words that load the model, such as ["--run", "logs/..."]; empty for the weights
            that ship, None where they are unknown.
        reader: reads graphs from pictures; by default the checker of the world that has the model's vocabulary.
        words: reads words that the vocabulary lacks, in graphs and in what is typed; None refuses them.
        clips: samples clips; None where there is no video model.
        resolver: completes names; by default from the model's vocabulary, with `words` if given.
        decode: a quick decoder for previews, latent (1,C,h,w) -> image (1,3,H,W) in [-1,1]; by default the model's
            tiny autoencoder (`preview_config`), or its first stage without one.

    Raises:
        UserError: the folder cannot be used.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        folder: str | Path,
        name: str = "the given model",
        model_words: Sequence[str] | None = None,
        reader: PictureReader | None = None,
        resolver: Resolver | None = None,
        decode: Decode | None = None,
        words: OpenWords | None = None,
        clips: ClipMaker | None = None,
    ):
        self.model, self.name, self.model_words = model, name, model_words
        self.reader = reader or find_reader_of(model.vocab)
        self.words, self.clips = words, clips
        self.resolver = resolver or (OpenResolver(model.vocab, words) if words else VocabResolver(model.vocab))
        self.examples = Examples(model)
        self.store = Store(Path(folder))
        self.hub = Hub()
        self.performer = Performer(model, decode)
        self.pace: float | None = None  # seconds per step of the last edits
        self.worker = Worker(JobTable(self.store.database), self._perform, self.hub.publish)

    def close(self) -> None:
        """Ends the job that runs; it waits again when the folder is opened."""
        self.worker.close()
        self.store.close()

    @cached_property
    def weights(self) -> str:
        """The fingerprint of the model's weights."""
        return fingerprint(self.model)

    @property
    def reader_note(self) -> str:
        """Why pictures cannot be read; empty if they can."""
        if self.reader is not None:
            return ""
        return (
            "nothing here reads this model's pictures: draw a box around each object and name it, or drop a graph file"
        )

    def plan(self, asked: EditAsked, node: Node) -> dict:
        """What the request would do. Raises UserError."""
        if node.kind == "canvas":
            plan = describe_canvas(self.model, asked)
        else:
            mask = asked.mask and self.store.pictures.read(asked.mask)
            plan = describe_plan(self.model, asked, node.size, mask)
        seconds = None if self.pace is None else round(self.pace * plan["steps"], 1)
        return {**plan, "seconds": seconds}

    def add_job(self, session: str, asked: EditAsked) -> Job:
        """Puts a request into the queue. Raises QueueFull."""
        return self.worker.add(session, asked)

    def session_json(self, id: str) -> dict:
        """A session as the interface tells it. Raises NotFound."""
        return views.session(self.store.session(id), self.store, self.worker.of_session(id))

    def tell_session(self, id: str) -> dict:
        """The same, sent to all browsers that watch it."""
        told = self.session_json(id)
        self.hub.publish(id, {"type": "session", "session": told})
        return told

    def delete_session(self, id: str) -> None:
        """Cancels the jobs of a session and deletes it. Raises NotFound."""
        self.worker.cancel_from({node.id for node in self.store.session(id).nodes})
        self.store.delete_session(id)
        self.hub.publish(id, {"type": "deleted", "session": id})

    def delete_node(self, id: int) -> None:
        """Cancels the jobs that start from a node or from what follows it, and deletes all that. Raises NotFound or NotNow."""
        node = self.store.node(id)
        self.worker.cancel_from(self.store.session(node.session).following(id))
        self.store.delete_node(id)

    # In the worker's thread -------------------------------------------------------------------------------------------

    def _perform(self, job: Job, follower: Follower) -> None:
        """Makes the pictures of a job; those that it made before the server stopped are there already."""
        start = self.store.node(job.node)
        asked, read = job.asked, self.store.pictures.read
        pictures = (id and read(id) for id in (start.picture, asked.style, asked.mask))
        inputs = Inputs(*pictures)
        if asked.kind == "clip":
            return self._play(job, inputs, follower)
        variants = asked.variants()
        try:
            for number in range(len(job.made), len(variants)):
                follower.begin(number)
                made = self.performer.make(asked, variants[number], inputs, follower)
                self._keep_pace(made)
                if asked.kind == "attention":
                    self._keep_attention(start, made)
                else:
                    self._keep(job, start, variants[number], made)
        finally:
            if job.made and self.store.session(job.session).current == start.id:
                self.store.go_to(job.session, job.made[0])
            if job.made or asked.kind == "attention":
                self.tell_session(job.session)

    def _play(self, job: Job, inputs: Inputs, follower: Follower) -> None:
        """Makes a clip and sends it to the browsers, which keep it as long as they show it."""
        if self.clips is None:  # the server was started again, with another model
            raise no_clips()
        follower.begin(0)
        clip = self.clips.make(job.asked, inputs, follower)
        self.hub.publish(job.session, {"type": "clip", "job": job.id, **clip._asdict()})

    def _keep(self, job: Job, start: Node, variant: Variant, made: Made) -> None:
        """Adds a picture to the tree, and tells the browsers."""
        assert made.image is not None
        add, asked = self.store.add_picture, job.asked
        region = made.region and add(made.region)
        attention = self._attention(made)
        verdict = self.reader.check(made.graph, made.image) if self.reader else None
        details = {
            "difference": variant.difference,
            "sentences": [*asked.readings, *made.sentences],
            "operations": made.operations,
            "options": {"given": variant.options, "used": made.options},
            "n": asked.count,
            "sweep": asked.sweep and {"option": asked.sweep.option, "values": list(asked.sweep.values)},
            "style": asked.style,
            "mask": asked.mask,
            "region": region,
            "region_share": made.measured.get("region_share"),
            "attention": attention,
            "verdict": verdict and {"passed": verdict.passed, "complaints": list(verdict.complaints)},
            "seconds": made.seconds,
            "asked": {
                "graph": asked.graph.to_json(),
                "source_graph": asked.source_graph and asked.source_graph.to_json(),
                "written": asked.written and asked.written.to_json(),
                "written_source": asked.written_source and asked.written_source.to_json(),
            },
            "measured": made.measured,
            "weights": self.weights,
            "device": str(self.model.device),
            "threads": self.worker.threads,
        }
        uses = [id for id in (asked.style, asked.mask, region, *(each["picture"] for each in attention)) if id]
        node = NewNode(
            kind=asked.kind,
            size=made.image.size,
            picture=add(made.image),
            graph=graphs.explicit(asked.in_own_words(made.graph)).to_json(),
            job=job.id,
            details=details,
            uses=uses,
        )
        with self.store.database.transaction():
            job.made.append(self.store.add_node(job.session, start.id, node))
            self.worker.table.save(job)
        told = views.node(self.store.node(job.made[-1]), self.store)
        self.hub.publish(job.session, {"type": "node", "node": told, "job": job.id})

    def _keep_attention(self, start: Node, made: Made) -> None:
        attention = self._attention(made)
        details: Mapping[str, Any] = self.store.node(start.id).details
        uses = [each["picture"] for each in attention]
        self.store.set_details(start.id, {**details, "attention": attention}, uses)

    def _attention(self, made: Made) -> list[dict]:
        """The maps by the ids of their objects."""
        ids = made.attention_graph.ids if made.attention_graph else ()
        return [{"object": id, "picture": self.store.add_picture(each)} for id, each in zip(ids, made.attention)]

    def _keep_pace(self, made: Made) -> None:
        if made.steps:
            pace = made.seconds / made.steps
            self.pace = pace if self.pace is None else (self.pace + pace) / 2
