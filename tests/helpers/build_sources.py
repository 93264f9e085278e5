"""Small real sources for the tests of builds: pictures, tables, sounds, films and tars, made on the spot."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml
from PIL import Image

from data_pipelines.build.build import build_dataset
from data_pipelines.build.settings import BuildSettings
from data_pipelines.shards.reader import ShardReader

ROOT = Path(__file__).parents[2]


def picture(seed: int, height: int = 40, width: int = 48) -> Image.Image:
    """Smooth colours, so that JPEG keeps them nearly and perceptual hashes mean something."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    payload = io.BytesIO()
    image.save(payload, format=format, **options)
    return payload.getvalue()


def tone(seconds: float, rate: int, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    """int16 [samples, channels]"""
    wave = np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate) * 12000
    return np.repeat(wave.astype(np.int16)[:, None], channels, axis=1)


def write_sound(path: Path, sound: np.ndarray, rate: int, codec: str) -> None:
    layout = "mono" if sound.shape[1] == 1 else "stereo"
    with av.open(str(path), "w", format="ogg" if path.suffix == ".opus" else None) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def film_frame(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A grey that tells the frame's number, in a colour that changes at frame 20: a cut."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[...] = (30 + 4 * number, 30, 30) if number < 20 else (30, 30, 150 + 2 * (number - 20))
    return frame


def write_film(path: Path, frames: int = 40, rate: int = 10, sound_rate: int | None = 24000) -> None:
    """`frames` at `rate` a second; with a tone that begins at second 1."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=rate, options={"crf": "1", "g": "10"})
        video.height, video.width, video.pix_fmt = 48, 64, "yuv444p"
        audio: Any = None
        if sound_rate:
            audio = container.add_stream("flac" if path.suffix == ".mkv" else "aac", rate=sound_rate)
            audio.layout = "mono"
        for number in range(frames):
            for packet in video.encode(av.VideoFrame.from_ndarray(film_frame(number), format="rgb24")):
                container.mux(packet)
        for packet in video.encode(None):
            container.mux(packet)
        if audio is not None and sound_rate:
            sound = tone(frames / rate, sound_rate)
            sound[:sound_rate] = 0
            frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate, frame.pts = sound_rate, 0
            for packet in [*audio.encode(frame), *audio.encode(None)]:
                container.mux(packet)


def decoded_sound(payload: bytes) -> tuple[np.ndarray, int]:
    """(int16 [samples, channels], rate) of FLAC bytes."""
    with av.open(io.BytesIO(payload)) as container:
        frames = list(container.decode(audio=0))
    channels = frames[0].layout.nb_channels
    return np.concatenate([f.to_ndarray().reshape(-1, channels) for f in frames]), frames[0].sample_rate


def write_stories(path: Path, rows: int) -> None:
    """JSON lines: a text and an id."""
    lines = [json.dumps({"text": f"story number {row} is about {row * 7} birds", "id": row}) for row in range(rows)]
    path.write_text("\n".join(lines) + "\n")


def settings(folder: Path, source: dict[str, Any], **changes: Any) -> BuildSettings:
    values = {"folder": str(folder), "origin": "a test", "license": "cc0-1.0", "source": source}
    return BuildSettings.model_validate_json(json.dumps(values | changes, default=str))


def build(folder: Path, source: dict[str, Any], **changes: Any) -> dict[str, tuple[dict[str, bytes], dict[str, Any]]]:
    """Builds in this process; (fields, lengths) of every sample of every split by key."""
    assert build_dataset(settings(folder, source, **changes), processes=1)
    return samples(folder)


def samples(folder: Path) -> dict[str, tuple[dict[str, bytes], dict[str, Any]]]:
    found: dict[str, tuple[dict[str, bytes], dict[str, Any]]] = {}
    for index in sorted(folder.glob("*/index.json")):
        reader = ShardReader(index.parent)
        for number in range(len(reader)):
            key, fields = reader.read(number)
            found[key] = fields, dict(reader.entry(number).lengths)
    return found


def dropped(folder: Path) -> dict[str, tuple[str, str]]:
    """(reason, detail) by name."""
    lines = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    return {line["name"]: (line["reason"], line["detail"]) for line in lines}


def write_build_file(path: Path, folder: Path, source: dict[str, Any], **changes: Any) -> None:
    values = {"folder": str(folder), "origin": "a test", "license": "cc0-1.0", "source": source} | changes
    path.write_text(yaml.safe_dump(json.loads(json.dumps(values, default=str))))


def start_unimodel(*arguments: object) -> subprocess.Popen[str]:
    """A real `unimodel` in a process group of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "unimodel", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def run_unimodel(*arguments: object) -> tuple[int, str, str]:
    """(exit status, output, errors)"""
    process = start_unimodel(*arguments)
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def kill_when(process: subprocess.Popen[str], mark: Path) -> None:
    """Kills the whole group as soon as a file is there; a build that was faster has ended."""
    while not mark.exists() and process.poll() is None:
        time.sleep(0.002)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def build_killed_at(number: int, wanted: BuildSettings) -> bool:
    """Builds in a child that kill -9 ends at its `number`-th fsync; False when it had fewer and came to the end."""
    child = os.fork()
    if child == 0:
        real, count = os.fsync, 0

        def fsync(descriptor: int) -> None:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            real(descriptor)

        os.fsync = fsync
        try:
            build_dataset(wanted, processes=1)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0, "the child failed by itself"
    return os.WIFSIGNALED(status)
