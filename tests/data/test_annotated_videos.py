import json

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.mask_tracks import find_components, iou, touching, tracks_from_masks
from ldm.data.protocols import ClipDataset
from ldm.data.video_files import FrameFolder, choose_frames, natural_order, open_frames, stride_for
from ldm.data.video_sets import SG2VID, StoryboardFolder, VidOR
from ldm.util.errors import UserError

COUNT, SIDE = 12, 32


def colour(number: int) -> tuple[int, int, int]:
    return 20 * number, 255 - 20 * number, 128


def save_frames(folder, count=COUNT, suffix="png"):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (SIDE, SIDE), colour(number)).save(folder / f"frame{number}.{suffix}")
    return folder


def annotation(**changes) -> dict:
    trajectories = [
        [{"tid": 0, "bbox": {"xmin": t, "ymin": 4, "xmax": t + 8, "ymax": 12}}] if t != 3 else [] for t in range(COUNT)
    ]
    return {
        "video_id": "v1",
        "frame_count": COUNT,
        "fps": 30,
        "width": SIDE,
        "height": SIDE,
        "subject/objects": [{"tid": 0, "category": "dog"}],
        "trajectories": trajectories,
        "relation_instances": [],
    } | changes


@pytest.fixture
def vidor(tmp_path):
    save_frames(tmp_path / "videos" / "v1")
    (tmp_path / "annotation" / "0001").mkdir(parents=True)
    (tmp_path / "annotation" / "0001" / "v1.json").write_text(json.dumps(annotation()))
    return tmp_path


def red(frames: torch.Tensor) -> list[int]:
    return [round(float((frame[0, 0, 0] + 1) * 127.5)) for frame in frames]


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    frames = open_frames(save_frames(tmp_path / "clip"))
    assert isinstance(frames, FrameFolder) and len(frames) == COUNT
    assert [image.getpixel((0, 0)) for image in frames.read([2, 10])] == [colour(2), colour(10)]
    assert natural_order(tmp_path / "frame2.png") < natural_order(tmp_path / "frame10.png")


def test_a_clip_shows_the_frames_that_its_storyboard_describes(vidor):
    clip = VidOR(vidor / "annotation", vidor / "videos", image_size=16, frames=3, fps=15).clip(0)
    assert clip.frames.shape == (3, 3, 16, 16) and clip.fps == 15
    assert red(clip.frames) == [20 * number for number in (0, 2, 4)]
    assert clip.storyboard.frames == 3 and clip.storyboard.fps == 15
    first, last = clip.storyboard.keyframes[0].graph, clip.storyboard.keyframes[-1].graph
    assert first.boxes == ((0, 4 / 32, 8 / 32, 12 / 32),) and last.boxes == ((4 / 32, 4 / 32, 12 / 32, 12 / 32),)
    whole = VidOR(vidor / "annotation", vidor / "videos", image_size=16, frames=4, fps=None).clip(0)
    assert red(whole.frames) == [20 * number for number in (4, 5, 6, 7)]  # nothing is seen in frame 3


def test_the_frames_of_a_clip_are_items_in_a_row_with_the_graphs_of_the_annotation(vidor):
    clips = VidOR(vidor / "annotation", vidor / "videos", image_size=16, frames=3, fps=15)
    assert isinstance(clips, ClipDataset) and len(clips) == 3
    for index, video_frame in enumerate((0, 2, 4)):
        image, graph = clips[index]
        assert red(image[None]) == [20 * video_frame]
        assert graph.objects == ("dog",) and graph.ids == ("0",) and graph.triples == ()
        assert graph.boxes == ((video_frame / 32, 4 / 32, (video_frame + 8) / 32, 12 / 32),)
    assert clips.vocab.objects == ("__image__", "dog") and clips.vocab.predicates == ("__in_image__",)
    with pytest.raises(IndexError):
        clips[3]


def test_random_starts_cover_all_places_and_no_other_and_depend_on_the_epoch_alone(vidor):
    clips = VidOR(vidor / "annotation", vidor / "videos", image_size=8, frames=3, fps=None, random_start=True)
    starts = []
    for clips.epoch in range(60):
        frames = red(torch.stack([clips[index][0] for index in range(3)]))
        starts.append(frames[0] // 20)
        assert frames == [20 * (starts[-1] + i) for i in range(3)]
    assert set(starts) == {0, 4, 5, 6, 7, 8, 9}
    clips.epoch = 7
    assert red(clips[0][0][None]) == [20 * starts[7]]


def test_a_video_without_a_clip_is_passed_over_and_one_that_is_missing_is_an_error(vidor):
    folder = vidor / "annotation" / "0001"
    (folder / "u0.json").write_text(json.dumps(annotation(trajectories=[[]] * COUNT)))
    clips = VidOR(vidor / "annotation", vidor / "videos", image_size=8, frames=3)
    assert clips.clips == 2 and red(clips.clip(0).frames) == red(clips.clip(1).frames)
    (folder / "v1.json").write_text(json.dumps(annotation(video_id="w")))
    with pytest.raises(UserError, match="put w.mp4 there"):
        clips.clip(1)
    (folder / "v1.json").write_text(json.dumps(annotation(video_id="../videos/v1")))
    with pytest.raises(UserError, match="is not in"):
        clips.clip(1)
    (folder / "v1.json").unlink()
    (folder / "u0.json").write_text(json.dumps(annotation(trajectories=[[]] * COUNT)))
    with pytest.raises(UserError, match="no video has 3 frames"):
        VidOR(vidor / "annotation", vidor / "videos", image_size=8, frames=3).clip(0)
    with pytest.raises(UserError, match="no annotation"):
        VidOR(vidor / "videos", vidor / "videos", image_size=8, frames=3)


def mask_of(x: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:12, x : x + 6] = 3
    mask[4:12, 20:28] = 5
    mask[30, 30] = 3  # smaller than an object
    return mask


def test_parts_of_classes_become_objects_and_those_that_touch_are_related():
    components = find_components(mask_of(14))
    assert [component.label for component in components] == [3, 5]
    assert components[0].box == (14 / 32, 4 / 32, 20 / 32, 12 / 32)
    assert touching(components) == [(0, 1)]
    assert touching(find_components(mask_of(13))) == []
    diagonal = np.zeros((32, 32), np.uint8)
    diagonal[2:8, 2:8], diagonal[8:14, 8:14] = 1, 2
    assert touching(find_components(diagonal)) == []  # one pixel only


def test_objects_keep_their_ids_while_they_overlap_themselves():
    tracks = tracks_from_masks([mask_of(x) for x in (2, 4, 6, 8, 14)], {3: "tool"}, fps=25)
    assert tracks.names == {"3.0": "tool", "5.0": "class 5", "3.1": "tool"}
    assert [sorted(frame) for frame in tracks.boxes] == [["3.0", "5.0"]] * 4 + [["3.1", "5.0"]]  # the last is a jump
    assert [len(frame) for frame in tracks.relations] == [0, 0, 0, 0, 1]
    assert iou((0, 0, 2, 1), (1, 0, 3, 1)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0


def test_the_layout_of_sg2vid_is_read(tmp_path):
    save_frames(tmp_path / "video_frames" / "video01", count=5, suffix="jpg")
    (tmp_path / "segm_ann" / "video01").mkdir(parents=True)
    for number in range(5):
        Image.fromarray(mask_of(2 + number)).save(tmp_path / "segm_ann" / "video01" / f"frame{number}.png")
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "cholec80_train.txt").write_text("video01\n")
    clips = SG2VID(tmp_path, "cholec80_train", {3: "grasper"}, video_fps=8, image_size=16, frames=4)
    clip = clips.clip(0)
    assert clip.frames.shape == (4, 3, 16, 16) and clip.fps == 8
    graph = clip.storyboard.keyframes[0].graph
    assert (graph.objects, graph.ids) == (("grasper", "class 5"), ("3.0", "5.0"))
    assert {"grasper", "class 5"} < set(clips.vocab.objects)
    with pytest.raises(UserError, match="this list of videos is missing"):
        SG2VID(tmp_path, "cholec80_val", image_size=16, frames=4)
    (tmp_path / "segm_ann" / "video01" / "frame4.png").unlink()
    with pytest.raises(UserError, match="5 frames but 4 masks"):
        clips.clip(0)
    Image.new("RGB", (4, 4)).save(tmp_path / "segm_ann" / "video01" / "frame4.png")
    with pytest.raises(UserError, match="one channel"):
        clips.clip(0)
    assert "one channel" in next(clips.check())


def test_a_folder_of_ones_own_clips_is_read(tmp_path):
    keyframes = [{"at": at, "objects": ["dog"], "boxes": [[x, 0, x + 0.5, 1]]} for at, x in ((0, 0.0), (3, 0.3))]
    save_frames(tmp_path / "a")
    (tmp_path / "a" / "storyboard.json").write_text(json.dumps({"frames": 4, "fps": 10, "keyframes": keyframes}))
    save_frames(tmp_path / "without")
    clips = StoryboardFolder(tmp_path, image_size=16, frames=4)
    assert isinstance(clips, ClipDataset) and len(clips) == 4 and clips.vocab.objects == ("__image__", "dog")
    assert [red(clips[i][0][None])[0] for i in range(4)] == [0, 20, 40, 60]
    assert clips[2][1].boxes == (pytest.approx((0.2, 0, 0.7, 1)),)
    assert clips.clip(0).fps == 10 and list(clips.check()) == []
    with pytest.raises(UserError, match="a storyboard of 4 frames"):
        StoryboardFolder(tmp_path, image_size=16, frames=5).clip(0)
    with pytest.raises(UserError, match="no clip with a storyboard"):
        StoryboardFolder(tmp_path / "a", image_size=16, frames=4)
    (tmp_path / "a" / "storyboard.json").write_text("{}")
    assert "keyframes" in next(clips.check())


def test_a_video_file_gives_the_frames_that_were_written(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width = stream.height = 64
        stream.bit_rate = 4_000_000
        for number in range(40):
            image = Image.new("RGB", (64, 64), (6 * number, 128, 128))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    frames = open_frames(path)
    assert (len(frames), frames.fps) == (40, 12)
    for numbers in ([0], [39], [3, 17, 30], [20, 21]):
        pixels = [image.getpixel((32, 32))[0] for image in frames.read(numbers)]
        assert all(abs(pixel - 6 * number) < 5 for pixel, number in zip(pixels, numbers)), (numbers, pixels)
    board = {"frames": 8, "fps": 12, "keyframes": [{"at": 0, "objects": ["dog"]}]}
    (tmp_path / "clip.json").write_text(json.dumps(board))
    clip = StoryboardFolder(tmp_path, image_size=16, frames=8).clip(0)
    assert clip.fps == 12 and clip.frames.shape == (8, 3, 16, 16)
    path.write_bytes(b"no video")
    with pytest.raises(UserError, match="cannot be read as a video"):
        open_frames(path)


def test_strides_and_choices_of_frames():
    assert [stride_for(30, fps) for fps in (30, 15, 8, 60, None)] == [1, 2, 4, 1, 1]
    assert choose_frames(10, 3, 3, 2) == [2, 5, 8]
    for wrong in ((10, 4, 3, 2), (10, 0, 1, 0), (10, 2, 0, 0), (10, 2, 1, -1)):
        with pytest.raises(UserError, match="choose fewer frames"):
            choose_frames(*wrong)
    with pytest.raises(UserError, match="there is no such video"):
        open_frames("/nowhere/clip.mp4")


def test_a_video_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (path := tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"scene-graph-editing\[video\]"):
        open_frames(path)
