"""`make gpu MINUTES=8`: what a GPU does with the project, on a bare machine, in the given time.

    python bench/gpu/pack.py                                   # before, where mrsr is installed
    python bench/gpu/run.py --minutes 8 --out "$OUT"           # on the machine with the GPU

The machine needs Python 3.11 or newer, torch, numpy, h5py, scipy, scikit-image, tqdm and pytest,
and no network. In turn, each part in a process of its own that is ended when its time is over:

1. the tests marked `gpu` (at most a minute, and an eighth of the time);
2. the benchmarks of bench/ (at most two minutes, and a quarter of the time);
3. trainings at published width, in the order of the table, with an equal share of what is left.

`results.json` and `results.md` in the folder are written anew after each part, the checkpoints
under 16 MB copied beside them, so that a run that is cut off leaves what it had. The same command
again keeps what is finished of the same pack and goes on. Imports the standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACK = ROOT / "results/gpu_pack"
LARGEST = 16e6  # bytes of a checkpoint that is brought back
TESTS, BENCHMARKS = (60.0, 1 / 8), (120.0, 1 / 4)  # seconds at most, and of the whole time
LEAST = 20.0  # seconds of a training: in less there is no time for more than its start
LAST = 3.0  # seconds for the end
GRACE = 2.0  # seconds between the request to end and the end

TRAINING = Path(__file__).with_name("training.py")
PROBE = """
import json, torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
print(json.dumps({"device": name, "torch": torch.__version__}))
"""


class Stopped(Exception):
    """SIGTERM or SIGINT: write down what there is and end."""


@dataclass
class Done:
    """How a part ended. state: done, failed or cut off; said: its last lines."""

    state: str
    seconds: float
    said: list[str]


@dataclass
class Run:
    """What is known so far, and where it is kept."""

    out: Path
    end: float
    found: dict[str, Any]
    stopped: str = ""  # by which signal

    def left(self) -> float:
        """Seconds until the last word must be written."""
        return self.end - LAST - time.monotonic()

    def write(self) -> None:
        """Both files, each complete or as it was."""
        for name, text in (
            ("results.json", json.dumps(self.found, indent=1) + "\n"),
            ("results.md", markdown(self.found)),
        ):
            temporary = self.out / f".{name}"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.out / name)

    def part(self, name: str, command: list[str], seconds: float) -> Done:
        """A process with its own log, ended when its seconds are over."""
        began, log = time.monotonic(), self.out / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        with open(log, "wb") as file:
            child = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )  # fmt: skip
            while child.poll() is None and time.monotonic() < began + seconds and not self.stopped:
                time.sleep(0.05)
            state = {None: "cut off", 0: "done"}.get(child.returncode, "failed")
            _end(child)
        if self.stopped:
            raise Stopped(self.stopped)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        return Done(state, round(time.monotonic() - began, 1), said[-5:])


def _end_with_parent() -> None:
    """Have Linux end a part when this process is killed, so that none is left over."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
    if child.poll() is None:
        child.kill()
        child.wait()


def tests(run: Run, whole: float) -> None:
    """The tests of tests/gpu; none of the others, nor their conftest, which need more packages."""
    if run.found.get("tests", {}).get("state") == "done":
        return
    if run.found["machine"]["device"] == "cpu":
        run.found["tests"] = vars(Done("skipped", 0.0, ["torch sees no GPU here"]))
        run.write()
        return
    folder = ROOT / "tests/gpu"
    command = [sys.executable, "-m", "pytest", "-c", str(folder / "pytest.ini"), str(folder)]
    command += ["--confcutdir", str(folder), "-p", "no:cacheprovider", "-rs", "-q"]
    done = run.part("tests", command, min(TESTS[0], TESTS[1] * whole, run.left()))
    run.found["tests"] = vars(done)
    run.write()


def benchmarks(run: Run, whole: float, small: bool) -> None:
    """Each file of bench/ that has rows, with an equal share of the time that is left for them."""
    stop = time.monotonic() + min(BENCHMARKS[0], BENCHMARKS[1] * whole, run.left())
    names = [path.stem for path in sorted((ROOT / "bench").glob("*.py"))
             if "\ndef rows(" in path.read_text(encoding="utf-8")]  # fmt: skip
    table = run.found.setdefault("benchmarks", {})
    todo = [name for name in names if table.get(name, {}).get("state") != "done"]
    for place, name in enumerate(todo):
        share = (stop - time.monotonic()) / (len(todo) - place)
        folder = run.out / "bench"
        command = [sys.executable, str(ROOT / "bench/all.py"), "--out", str(folder), name]
        done = run.part(f"bench-{name}", [*command, *(["--small"] if small else [])], share)
        table[name] = vars(done) | {"rows": _rows(folder / f"{name}.json")}
        run.write()


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["rows"])
    except (OSError, ValueError, LookupError):
        return []


def trainings(run: Run, pack: Path, jobs: list[dict[str, Any]]) -> None:
    """Each training in the order of the pack."""
    table = run.found.setdefault("trainings", {})
    for name in [name for name, entry in table.items() if entry["state"] != "done"]:
        del table[name]  # cut off or not started: from the beginning
    work = run.out / "work"
    todo = [job for job in jobs if job["name"] not in table]
    while todo:  # what ends early leaves its time to the others
        job = todo.pop(0)
        name, left = job["name"], run.left()
        shares = job["share"] + sum(other["share"] for other in todo)
        seconds = max(LEAST, left * job["share"] / shares)
        if seconds > left:
            table[name] = {"state": "not started: no time was left"}
            continue
        command = [sys.executable, str(TRAINING)]
        command += [
            "--pack",
            str(pack),
            "--job",
            name,
            "--until",
            f"{time.time() + seconds - GRACE}",
        ]
        done = run.part(name, [*command, "--out", str(work / name)], seconds)
        entry = vars(done)
        if done.state == "done":
            entry |= json.loads((work / name / "result.json").read_text(encoding="utf-8"))
            entry["checkpoint"] = _keep(work / name / "best.pt", run.out / "checkpoints", name)
        table[name] = entry
        run.write()
    run.write()


def _keep(saved: Path, folder: Path, name: str) -> str:
    """Copy a checkpoint that is small enough; what became of it."""
    size = saved.stat().st_size
    if size >= LARGEST:
        return f"left out: {size / 1e6:.0f} MB"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(saved, folder / f".{name}.pt")
    (folder / f".{name}.pt").replace(folder / f"{name}.pt")
    return f"checkpoints/{name}.pt"


def markdown(found: dict[str, Any]) -> str:
    """The results as tables."""
    machine = found["machine"]
    about = ", ".join(f"{key} {value}" for key, value in machine.items() if key != "device")
    lines = [f"# {machine['device']}", "", f"{found['minutes']:g} minutes; {about}.", ""]
    if "tests" in found:
        said = found["tests"]["said"]
        lines += ["## Tests", "", f"{found['tests']['state']}: {said[-1] if said else ''}", ""]
    if found.get("trainings"):
        lines += [
            f"## Trainings on {found['dataset']} at {found['scale']}x",
            "",
            "PSNR in dB over whole slices; bicubic's in brackets.",
            "",
            "| Network | State | Steps | Seconds | ms a step | Validation | Test | Checkpoint |",
            "|---|---|---:|---:|---:|---:|---:|---|",
            *(_training(name, entry) for name, entry in found["trainings"].items()),
            "",
        ]
    for name, entry in found.get("benchmarks", {}).items():
        lines += [f"## {name}", "", f"{entry['state']} after {entry['seconds']} s", ""]
        if entry["rows"]:
            lines += [
                "| What | Ours | Compared with | Ratio | Wall (s) |",
                "|---|---|---|---:|---|",
            ]
            lines += map(_row, entry["rows"])
            lines.append("")
        elif entry["said"]:
            lines += [f"    {entry['said'][-1]}", ""]
    return "\n".join(lines)


def _training(name: str, entry: dict[str, Any]) -> str:
    state = entry["state"]
    if state != "done":
        reason = entry["said"][-1] if entry.get("said") and state == "failed" else ""
        return f"| {name} | {state} {reason.replace('|', '/')} | | | | | | |"
    psnr = [
        f"{values['network']:.2f} ({values['bicubic']:.2f})"
        for values in entry.get("psnr", {}).values()
    ]
    cells = [f"{entry['steps']}", f"{entry['seconds']:.0f}", f"{1e3 * entry['step_seconds']:.1f}"]
    return "| " + " | ".join([name, state, *cells, *(psnr or ["", ""]), entry["checkpoint"]]) + " |"


def _row(row: dict[str, Any]) -> str:
    ratio = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    wall = f"{row['seconds']:.3g} / {row['other_seconds']:.3g}"
    return f"| {row['name']} | {row['ours']} | {row['other']} | {ratio} | {wall} |"


def machine() -> dict[str, Any]:
    """The card, processors and versions."""
    asked = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if asked.returncode:
        said = asked.stderr.strip().splitlines() or ["no reason given"]
        raise SystemExit(f"mrsr: error: torch does not work here: {said[-1]}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {**json.loads(asked.stdout), "python": platform.python_version(), "cores": cores}


def _kept(out: Path, same: dict[str, Any], fresh: bool) -> dict[str, Any]:
    """What an earlier run with the same pack on such a machine has finished."""
    try:
        earlier = json.loads((out / "results.json").read_text(encoding="utf-8"))
        same_run = all(earlier.get(key) == value for key, value in same.items())
    except (OSError, ValueError, AttributeError):
        same_run = False
    if same_run and not fresh:
        return dict(earlier)
    for name in ("results.json", "results.md"):
        (out / name).unlink(missing_ok=True)
    for name in ("work", "bench", "logs", "checkpoints"):
        shutil.rmtree(out / name, ignore_errors=True)
    return dict(same)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--pack", type=Path, default=PACK, help="made by bench/gpu/pack.py")
    default = Path(os.environ.get("OUT") or ROOT / "results/gpu")
    parser.add_argument("--out", type=Path, default=default, help="default: $OUT or results/gpu")
    parser.add_argument("--fresh", action="store_true", help="keep nothing of an earlier run")
    given = parser.parse_args(arguments)
    began, whole = time.monotonic(), 60 * given.minutes
    try:
        content = json.loads((given.pack / "jobs.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        print(f"mrsr: error: {given.pack} has no jobs.json; run `python bench/gpu/pack.py` where "
              "mrsr is installed, and bring the folder here", file=sys.stderr)  # fmt: skip
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    about = {key: content[key] for key in ("experiment", "dataset", "scale", "digest")}
    same = {"minutes": given.minutes, "machine": machine(), **about}
    run = Run(given.out.resolve(), began + whole, _kept(given.out, same, given.fresh))
    for number in (signal.SIGTERM, signal.SIGINT):  # noted here, acted on between and in parts
        signal.signal(number, lambda got, _: setattr(run, "stopped", signal.Signals(got).name))
    run.write()
    code = 0
    try:
        tests(run, whole)
        benchmarks(run, whole, small=run.found["machine"]["device"] == "cpu")
        trainings(run, given.pack.resolve(), content["jobs"])
    except Stopped as stopped:
        print(f"mrsr: stopped by {stopped}; the same command goes on", file=sys.stderr)
        code = 75
    finally:
        run.write()
    if not code:
        shutil.rmtree(run.out / "work", ignore_errors=True)
    print((run.out / "results.md").read_text(encoding="utf-8"))
    return code


if __name__ == "__main__":
    sys.exit(main())
