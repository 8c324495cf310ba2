#!/usr/bin/env python3
"""Answers a file of prompts on the machines of a Ray cluster: a Ray Data pipeline over `ferrowarp batch --shard K/N`.

Each part of the file is a task that wants a GPU (`--gpus 0` for softcuda) and may run on any node. The folder of the answers is
one that all nodes see, and so are the prompts and the model. A part that was begun, on whichever node, goes on where it was:
run the same line again after a failure. At the end the parts are joined, in the prompts' order.

    pip install 'ray[data]'
    python deploy/ray_batch.py -m model.gguf -i prompts.jsonl -o answers.jsonl --shards 16
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys

import ray


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="the GGUF file; without it the embedded model")
    parser.add_argument("-i", "--input", required=True, help="the prompts, a line each")
    parser.add_argument("-o", "--output", required=True, help="the answers; parts lie beside it until all are there")
    parser.add_argument("--shards", type=int, default=8, help="parts that the file is cut into [default: 8]")
    parser.add_argument("--gpus", type=float, default=1, help="GPUs of a part; 0 for softcuda [default: 1]")
    parser.add_argument("--cpus", type=float, default=1, help="CPU cores of a part [default: 1]")
    parser.add_argument("--address", default="auto", help="the cluster [default: the one that this machine is of]")
    parser.add_argument("--program", default="ferrowarp", help="the program, on every node [default: ferrowarp]")
    parser.add_argument("more", nargs="*", help="further arguments of ferrowarp batch, after --")
    return parser.parse_args()


def part(output, number, shards):
    """Where a part's answers are."""
    return f"{output}.{number}-of-{shards}.part"


def answer(row, options):
    """Answers one part of the file, on the node that it is run on."""
    number, path = int(row["id"]) + 1, part(options["output"], int(row["id"]) + 1, options["shards"])
    command = [options["program"], "batch", "-i", options["input"], "-o", path]
    command += ["--shard", f"{number}/{options['shards']}"]
    if options["model"]:
        command += ["-m", options["model"]]
    done = subprocess.run(command + options["more"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"part {number}: {done.stderr.strip()}")
    with open(path, "rb") as answers:
        n = sum(1 for _ in answers)
    return {"part": number, "answers": n, "node": ray.get_runtime_context().get_node_id(), "host": socket.gethostname()}


def main():
    options = vars(arguments())
    for name in ["input", "output", "model"]:
        options[name] = options[name] and os.path.abspath(options[name])
    shards = options["shards"]
    if shards < 1:
        sys.exit(f"--shards: found {shards}, expected a number of parts")
    ray.init(address=options["address"], log_to_driver=False)
    parts = ray.data.range(shards, override_num_blocks=shards).map(
        answer,
        fn_kwargs={"options": options},
        num_gpus=options["gpus"] or None,
        num_cpus=options["cpus"],
        scheduling_strategy="SPREAD",
    )
    rows = sorted(parts.take_all(), key=lambda row: row["part"])
    whole = options["output"] + ".part"
    with open(whole, "wb") as joined:
        for row in rows:
            with open(part(options["output"], row["part"], shards), "rb") as answers:
                shutil.copyfileobj(answers, joined)
        joined.flush()
        os.fsync(joined.fileno())
    os.replace(whole, options["output"])
    for row in rows:
        os.remove(part(options["output"], row["part"], shards))
    nodes = {row["node"] for row in rows}
    print(f"{sum(row['answers'] for row in rows)} answers from {shards} parts on {len(nodes)} nodes")


if __name__ == "__main__":
    main()
