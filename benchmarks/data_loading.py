"""Samples per second of our loader beside its peers: the same samples, the same decoder, one machine, one run.

20,000 samples of a 64x64 PNG, a caption and a few numbers are shuffled, decoded to uint8 and handed over in batches of
64, by 1 and by 2 workers, decoded by Pillow and by libspng. Loaders take turns in processes of their own, so that a
noisy machine slows all; figures are medians. CPU time, of all processes of a loader together, stands beside the rate:
where other work shares the cores, it is the steadier of the two, and its ratio is theirs / ours. "raw" is the limit:
as many processes as there are workers read and decode, each for itself, and hand nothing over. Peers that cannot live
with our versions get an environment each under `.venv-peers/`.

Run: python benchmarks/data_loading.py [repeats]
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.table import Lengths
from data_pipelines.shards.writer import write_shard

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data" / "benchmark"
ENVIRONMENTS = ROOT / ".venv-peers"
SAMPLES, SHARD_SAMPLES, REPEATS = 20_000, 1_000, 3
OURS = "unimodel"
LOADERS = ("raw", OURS, "webdataset", "datasets", "torchdata")
"""Those that live in our environment."""
PEERS = {
    "streaming": ("mosaicml-streaming==0.13.0",),
    "litdata": ("litdata==0.2.76",),
    "energon": ("megatron-energon==7.4.1",),
}
"""Those that get an environment of their own, and what is installed there beside COMMON."""
COMMON = ("torch==2.13.0", "pillow==13.0.0", "pyspng==0.1.4")
CASES = (("pillow", 1), ("pillow", 2), ("libspng", 1), ("libspng", 2))
TIMEOUT_SECONDS = 120.0


def raw_samples(first: int) -> Iterator[tuple[str, dict[str, bytes], Lengths]]:
    """Soft colours with a little grain: about 8 kB, as a photograph has."""
    for number in range(first, first + SHARD_SAMPLES):
        rng = np.random.default_rng(number)
        soft = Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).resize(
            (64, 64), Image.Resampling.BICUBIC
        )
        pixels = np.clip(np.asarray(soft) + rng.normal(0, 4, (64, 64, 3)), 0, 255).astype(np.uint8)
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="PNG")
        about = {"caption": f"picture {number} of soft colours", "numbers": rng.integers(1000, size=4).tolist()}
        yield f"sample{number:06d}", {"png": png.getvalue(), "json": json.dumps(about).encode()}, {}


def make_data() -> Path:
    """The raw shards, written once."""
    folder = DATA / "raw"
    if not (folder / "index.json").exists():
        starts = range(0, SAMPLES, SHARD_SAMPLES)
        shards = [write_shard(folder / f"raw-{start:06d}.tar", raw_samples(start)) for start in starts]
        write_manifest(folder, Manifest(tuple(shards)))
    return folder


def environment_of(loader: str) -> Path | None:
    """The Python that has a loader; None, after saying why, when it does not install."""
    if loader in LOADERS:
        return Path(sys.executable)
    folder = ENVIRONMENTS / loader
    python, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists():
        print(f"installing {' '.join(PEERS[loader])} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *COMMON, *PEERS[loader]]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            print(f"{loader} does not install: {installed.stderr.strip().splitlines()[-1:]}")
            return None
        done.touch()
    return python


def measure(loader: str, python: Path, data: Path, decoder: str, workers: int) -> dict[str, float] | None:
    """Samples per second and CPU microseconds per sample of a new process; None, after saying why, if it fails."""
    script = ROOT / "benchmarks" / "peers" / "measure.py"
    command = [str(python), str(script), loader, str(data), str(DATA / loader), decoder, str(workers)]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, trouble = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            output, trouble = "", f"nothing came within {TIMEOUT_SECONDS:.0f} s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers that a loader left behind
    if process.returncode == 0 and output:
        return json.loads(output.splitlines()[-1])
    print(f"{loader}, {decoder}, {workers} workers failed: {trouble.strip()[-300:]}", flush=True)
    return None


def measure_raw(python: Path, data: Path, decoder: str, processes: int) -> dict[str, float] | None:
    """The same of `processes` that read and decode side by side, each for itself: what the cores give together."""
    with ThreadPoolExecutor(processes) as pool:
        found = list(pool.map(lambda _: measure("raw", python, data, decoder, 1), range(processes)))
    figures = [one for one in found if one is not None]
    if len(figures) < processes:
        return None
    return {"rate": sum(one["rate"] for one in figures), "cpu": statistics.mean(one["cpu"] for one in figures)}


def compare(data: Path, repeats: int) -> None:
    """Measures all loaders in turn, `repeats` times, and prints the medians beside ours."""
    pythons = {loader: environment_of(loader) for loader in (*LOADERS, *PEERS)}
    figures: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
    for turn in range(repeats):
        for decoder, workers in CASES:
            for loader, python in pythons.items():
                if python is None:
                    continue
                if loader == "raw":
                    figure = measure_raw(python, data, decoder, workers)
                else:
                    figure = measure(loader, python, data, decoder, workers)
                if figure is not None:
                    figures[loader, decoder, workers].append(figure)
        print(f"turn {turn + 1} of {repeats}, load average {os.getloadavg()[0]:.1f}", flush=True)
    medians = {
        case: {name: statistics.median(one[name] for one in some) for name in ("rate", "cpu")}
        for case, some in figures.items()
    }
    for decoder, workers in CASES:
        ours = medians[OURS, decoder, workers]
        print(f"\n{decoder}, {workers} worker{'s'[: workers - 1]}: ours / theirs")
        for loader in pythons:
            theirs = medians.get((loader, decoder, workers))
            if theirs is None:
                print(f"  {loader:12} no figure")
                continue
            values = [one["rate"] for one in figures[loader, decoder, workers]]
            print(
                f"  {loader:12} {theirs['rate']:7,.0f} a second ({min(values):,.0f} to {max(values):,.0f})  "
                f"{ours['rate'] / theirs['rate']:5.2f}   {theirs['cpu']:6,.0f} us of CPU a sample "
                f"{theirs['cpu'] / ours['cpu']:5.2f}"
            )


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS
    began = time.perf_counter()
    compare(make_data(), repeats)
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{time.perf_counter() - began:.0f} s, {cores} cores, load average {load:.1f}")


if __name__ == "__main__":
    main()
