"""Tests and measures ferrowarp on this machine's GPU.

Four steps, each named on the command line or all of them:

  kernels    every kernel against its definition; fails where a registered kernel was not launched
  golden     whole models against llama.cpp's numbers, the embedded model, loading, the driver's entry points
  sanitizer  NVIDIA's compute-sanitizer over the kernel tests, where it is installed and can watch the device; two kernels
             that are wrong on purpose must be found first
  bench      models of three sizes in three types, beside the targets; every kernel; loading

The report is report.md and report.json in $OUT (else ./report), with log.txt and the measurements as they came. Each command
has a time limit, and what is known by then is reported. The exit code is 0 where nothing failed; a target that is missed is
no failure.
"""

import datetime
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
STEPS = ["kernels", "golden", "sanitizer", "bench"]
GOLDEN = ["golden", "facts", "memory", "loading", "engine_families", "haiku", "shortlist", "cust_end_to_end", "matmul"]
SHAPES = ["qwen2.5-0.5b", "qwen2.5-7b", "llama3-8b"]
TYPES = ["f16", "q8_0", "q4_k_m"]
# Seconds for everything: what is left when a step begins bounds its commands too.
TOTAL = 540


class Run:
    def __init__(self, out):
        self.out = out
        self.log = (out / "log.txt").open("w")
        self.start = time.monotonic()
        self.checks = []
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ferrowarp-"))
        with tarfile.open(HERE / "payload.tar.xz") as payload:
            payload.extractall(self.folder)
        self.bin = self.folder / "bin"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FERROWARP_")}
        for name in ["FERROWARP_CUBLAS", "FERROWARP_IMAGE"]:
            if name in os.environ:
                self.environment[name] = os.environ[name]
        self.environment.update(
            FERROWARP_DEVICE=os.environ.get("FERROWARP_DEVICE", "cuda"),
            FERROWARP_ROOT=str(self.folder),
            CARGO_BIN_EXE_ferrowarp=str(self.bin / "ferrowarp"),
            RUST_BACKTRACE="0",
        )

    def command(self, arguments, limit, output=None, **environment):
        """Runs a command to its end or its limit. Gives (exit code, or None past the limit; output; seconds)."""
        limit = max(5, min(limit, TOTAL - (time.monotonic() - self.start)))
        arguments = [str(argument) for argument in arguments]
        print(f"$ {' '.join(arguments)}", file=self.log, flush=True)
        begin = time.monotonic()
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                arguments,
                stdout=output or subprocess.PIPE,
                stderr=errors if output else subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env={**self.environment, **environment},
                start_new_session=True,
            )
            try:
                text, _ = process.communicate(timeout=limit)
                code = process.returncode
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                text, _ = process.communicate()
                code = None
            if output:
                errors.seek(0)
                text = errors.read()
        seconds = time.monotonic() - begin
        text = (text or b"").decode(errors="replace")
        ended = "stopped at its limit" if code is None else f"exit code {code}"
        print(text, f"[{ended} after {seconds:.1f} s]\n", sep="\n", file=self.log, flush=True)
        return code, text, seconds

    def first_byte(self, arguments, limit):
        """Seconds from a program's start to the first byte that it prints, or None where there is none."""
        begin = time.monotonic()
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdout=subprocess.PIPE,
            stderr=self.log,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=self.environment,
        )
        timer = threading.Timer(limit, process.kill)
        timer.start()
        first = process.stdout.read(1)
        seconds = time.monotonic() - begin
        process.stdout.read()
        timer.cancel()
        return seconds if process.wait() == 0 and first else None

    def check(self, step, name, state, note, seconds=0.0):
        """Notes how a check ended: passed, failed, or left out with the reason."""
        self.checks.append({"step": step, "name": name, "state": state, "note": note, "seconds": round(seconds, 1)})
        print(f"{step}: {name}: {state} ({note}, {seconds:.1f} s)", flush=True)

    def tests(self, step, name, binary, arguments, limit, **environment):
        """Runs a test binary and notes how many of its tests passed."""
        code, text, seconds = self.command([self.bin / binary, *arguments], limit, **environment)
        state = "passed" if code == 0 else "failed"
        self.check(step, name, state, summary(code, text), seconds)
        return code == 0


def summary(code, text):
    """A test binary's own account, and the tests that failed."""
    if code is None:
        done = text.count(" ... ok")
        return f"stopped at its time limit; {done} tests had passed"
    results = [line for line in text.splitlines() if line.startswith("test result:")]
    failed = [line.split()[1] for line in text.splitlines() if line.startswith("test ") and line.endswith("FAILED")]
    account = results[-1].removeprefix("test result: ").split("; finished")[0] if results else f"exit code {code}"
    return account + (": " + ", ".join(failed) if failed else "")


def kernels(run):
    launched = run.out / "launched.txt"
    run.tests("kernels", "every kernel test", "kernels", [], 120, FERROWARP_LAUNCHED=str(launched))
    only = ["--ignored", "--exact", "launched::every_registered_kernel_was_launched"]
    run.tests("kernels", "every registered kernel was launched", "kernels", only, 10, FERROWARP_LAUNCHED=str(launched))


def golden(run):
    for name in GOLDEN:
        run.tests("golden", name, name, [], 90)


def find_sanitizer():
    known = shutil.which("compute-sanitizer")
    if known:
        return known
    places = [pathlib.Path("/usr/local").glob("cuda*/bin/compute-sanitizer")]
    places.append(pathlib.Path("/opt").glob("nvidia/**/compute-sanitizer"))
    found = [str(path) for place in places for path in place if path.is_file()]
    return found[0] if found else None


def sanitizer(run):
    tool = find_sanitizer()
    if tool is None:
        return run.check("sanitizer", "compute-sanitizer", "left out", "it is not installed here")
    # Another exit code than a failed test's.
    mistake = 77
    over = [tool, "--error-exitcode", str(mistake)]
    for kind, canary in [("memcheck", "overrunning_kernel"), ("racecheck", "racy_kernel")]:
        arguments = [*over, "--tool", kind, run.bin / "canary", "--exact", canary]
        code, text, seconds = run.command(arguments, 60)
        if "Device not supported" in text or "not supported on this" in text:
            return run.check("sanitizer", kind, "left out", "it cannot watch this device", seconds)
        state, note = ("passed", "found") if code == mistake else ("failed", f"not found: exit code {code}")
        run.check("sanitizer", f"{kind}: {canary.replace('_', ' ')}", state, note, seconds)
    for kind, limit in [("memcheck", 160), ("racecheck", 160)]:
        # One test at a time: each has a context, and the tool watches all of them.
        # Some tests make calls fail on purpose: those are no errors of memory.
        arguments = [*over, "--tool", kind, "--report-api-errors", "no", run.bin / "kernels", "--test-threads=1"]
        code, text, seconds = run.command(arguments, limit)
        errors = [line.strip("= ") for line in text.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        note = summary(code, text) + ("; " + errors[-1] if errors else "")
        run.check("sanitizer", f"{kind}: kernel tests", "passed" if code == 0 else "failed", note, seconds)


def measurements(run, name, arguments, limit):
    """Runs `bench` and reads the rows that came before its limit."""
    path = run.out / f"{name}.jsonl"
    with path.open("wb") as output:
        code, text, seconds = run.command([run.bin / "ferrowarp", "bench", *arguments, "-o", "jsonl"], limit, output)
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    if code == 0:
        note = f"{len(rows)} rows"
    else:
        ended = "stopped at its time limit" if code is None else f"exit code {code}: {text.strip()[-300:]}"
        note = f"{ended} after {len(rows)} rows"
    run.check("bench", name, "passed" if code == 0 else "failed", note, seconds)
    return rows


def bench(run):
    tests = ["-p", "512,2048", "-n", "128", "-r", "3"]
    results = {"models": [], "kernels": [], "load": []}
    for shape in SHAPES:
        arguments = ["--shape", shape, "--type", ",".join(TYPES), *tests]
        results["models"] += measurements(run, f"models-{shape}", arguments, 90)
    arguments = ["--shape", "qwen2.5-7b", "--type", "q4_k_m", "-p", "0", "-n", "128", "-d", "4096", "-r", "3"]
    results["models"] += measurements(run, "models-deep", arguments, 45)
    results["kernels"] = measurements(run, "kernels", ["--kernels", "-r", "3"], 90)
    results["load"] = load(run)
    return results


def load(run):
    """From a process's start to its first token, and the rate of loading, with a file that was just written."""
    rows = []
    for shape, file_type, limit in [("qwen2.5-0.5b", "f16", 40), ("qwen2.5-7b", "q4_k_m", 60)]:
        model = run.folder / "model.gguf"
        program = run.bin / "ferrowarp"
        synth = [program, "synth", "--shape", shape, "--type", file_type, "--force", "-o", model]
        code, text, seconds = run.command(synth, limit)
        name = f"{shape} {file_type}"
        if code != 0:
            run.check("bench", f"load {name}", "failed", f"no file: exit code {code}: {text.strip()[-200:]}", seconds)
            continue
        found = measurements(run, f"load-{name.replace(' ', '-')}", ["-m", model, "-p", "0", "-n", "8", "-r", "1"], 60)
        generate = [program, "generate", "-m", model, "--raw", "-p", "a", "-n", "2", "--temp", "0", "--ignore-eos"]
        starts = [seconds for seconds in [run.first_byte(generate, 60) for _ in range(3)] if seconds]
        if not found or not starts:
            run.check("bench", f"load {name}", "failed", "no token came")
            continue
        rows.append(
            {
                "model": name,
                "bytes": model.stat().st_size,
                "load_gb_per_s": found[0]["load_gb_per_s"],
                "open_s": found[0]["open_s"],
                "load_s": found[0]["load_s"],
                "start_to_first_token_s": min(starts),
                "starts_s": starts,
            }
        )
        model.unlink()
    return rows


def device(run):
    """What this machine says of its GPU."""
    facts = {}
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"
    if shutil.which("nvidia-smi"):
        code, text, _ = run.command(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], 20)
        if code == 0 and text.strip():
            facts = dict(zip(query.split(","), [part.strip() for part in text.splitlines()[0].split(",")]))
    _, devices, _ = run.command([run.bin / "ferrowarp", "devices"], 30)
    return {"nvidia_smi": facts, "devices": devices}


def table(titles, rows):
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows] + [""]


def rate(found, target):
    """A target beside what was found, and their ratio."""
    return f"{target:g}", f"{found / target:.2f}" if target else ""


def markdown(report, targets):
    results = report["results"]
    models = {(row["model"], row["test"]): row for row in results.get("models", [])}
    lines = [f"# ferrowarp on {report['device']['name']}", ""]
    lines += [f"{report['date']}, {report['version']}, driver {report['device']['driver']}", ""]
    any_row = next(iter(models.values()), None)
    if any_row:
        lines += [
            f"Measured in the same runs: reads {any_row['read_gb_per_s']:.0f} GB/s, copies {any_row['copy_gb_per_s']:.0f} "
            f"GB/s, multiplies f16 with {any_row['matmul_tflop_per_s']:.0f} TFLOP/s.",
            "",
        ]
    lines += ["## Checks", ""]
    checks = [[c["step"], c["name"], c["state"], c["note"], f"{c['seconds']:.1f}"] for c in report["checks"]]
    lines += table(["step", "check", "", "", "s"], checks)
    decode = []
    for model, target in targets["tg128"].items():
        row = models.get((model, "tg128"))
        if row:
            part = f"{row['percent_of_floor']:.1f} %"
            found = f"{row['tokens_per_s']:.1f} ± {row['deviation']:.1f}"
            decode.append([model, found, *rate(row["tokens_per_s"], target), part, f"{row['launches_per_token']:.1f}"])
    if decode:
        titles = ["tg128", "tokens/s", "target", "found/target", "of floor", "launches/token"]
        lines += ["## Decoding", ""] + table(titles, decode)
    others = [row for (_, test), row in models.items() if test.startswith("tg") and test != "tg128"]
    if others:
        cells = [[r["model"], r["test"], f"{r['tokens_per_s']:.1f} ± {r['deviation']:.1f}", f"{r['percent_of_floor']:.1f} %"]
                 for r in others]
        lines += table(["model", "test", "tokens/s", "of floor"], cells)
    prompts = []
    for (model, test), row in models.items():
        if test.startswith("pp"):
            target = targets.get(test, {}).get(model)
            beside = rate(row["tokens_per_s"], target) if target else ("", "")
            prompts.append([model, test, f"{row['tokens_per_s']:.0f} ± {row['deviation']:.0f}", *beside,
                            f"{row['tflop_per_s']:.0f}"])
    if prompts:
        titles = ["model", "test", "tokens/s", "target", "found/target", "TFLOP/s"]
        lines += ["## Prompts", ""] + table(titles, prompts)
    if results.get("load"):
        cells = []
        for row in results["load"]:
            target = targets["start_to_first_token_s"].get(row["model"].split()[0], "")
            cells.append([row["model"], f"{row['load_gb_per_s']:.1f}", targets["load_gb_per_s"],
                          f"{row['start_to_first_token_s']:.3f}", target])
        titles = ["from the page cache", "GB/s", "target", "process start to first token, s", "target"]
        lines += ["## Loading", ""] + table(titles, cells)
    if results.get("kernels"):
        cells = []
        for r in results["kernels"]:
            tera = "" if r["tflop_per_s"] is None else f"{r['tflop_per_s']:.1f}"
            cells.append([r["kernel"], r["shape"], f"{1e6 * r['seconds']:.2f} ± {1e6 * r['deviation']:.2f}",
                          f"{r['gb_per_s']:.0f}", tera, f"{r['percent_of_peak']:.1f} %"])
        lines += ["## Kernels, from a cold cache", ""]
        lines += table(["kernel", "shape", "µs", "GB/s", "TFLOP/s", "of peak"], cells)
    return "\n".join(lines)


def write_report(run, facts, results):
    version = (HERE / "VERSION").read_text().strip() if (HERE / "VERSION").exists() else "of an unknown version"
    name = facts["nvidia_smi"].get("name") or "an unnamed device"
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": version,
        "device": {"name": name, "driver": facts["nvidia_smi"].get("driver_version", "unknown"), **facts},
        "seconds": round(time.monotonic() - run.start, 1),
        "checks": run.checks,
        "results": results,
    }
    targets = json.loads((HERE / "targets.json").read_text())
    report["targets"] = targets
    (run.out / "report.json").write_text(json.dumps(report, indent=1))
    (run.out / "report.md").write_text(markdown(report, targets))


def main():
    wanted = sys.argv[1:] or STEPS
    unknown = [step for step in wanted if step not in STEPS]
    if unknown:
        sys.exit(f"error: unknown step {unknown[0]}; expected some of {', '.join(STEPS)}")
    out = pathlib.Path(os.environ.get("OUT") or HERE / "report")
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out.resolve())
    results = {}
    try:
        facts = device(run)
        steps = {"kernels": kernels, "golden": golden, "sanitizer": sanitizer, "bench": bench}
        for step in [step for step in STEPS if step in wanted]:
            try:
                found = steps[step](run)
                results.update(found or {})
            except Exception as error:  # One step's trouble is not the others'.
                run.check(step, "the step itself", "failed", repr(error))
            write_report(run, facts, results)
    finally:
        shutil.rmtree(run.folder, ignore_errors=True)
    print((run.out / "report.md").read_text())
    failed = [check for check in run.checks if check["state"] == "failed"]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
