"""deploy/ray_batch.py on a cluster of two nodes on this machine, softcuda and the embedded model: the answers are those of one run."""

import json
import os
import subprocess
import sys
import tempfile

from ray.cluster_utils import Cluster

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = sys.argv[1]


def lines(path):
    """The answers, without what the clock says."""
    with open(path) as file:
        answers = [json.loads(line) for line in file]
    for answer in answers:
        if answer["response"]:
            del answer["response"]["body"]["created"]
    return answers


def main():
    os.environ["FERROWARP_DEVICE"] = "soft"
    # One core for each node: a part runs alone there, so both have some.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    with tempfile.TemporaryDirectory() as folder:
        prompts = os.path.join(folder, "prompts.jsonl")
        with open(prompts, "w") as file:
            for seed, word in enumerate(["tin", "moon", "leaf", "stone", "river"]):
                text = f'Write a haiku about rain that includes the word "{word}"'
                body = {"messages": [{"role": "user", "content": text}], "seed": seed, "max_tokens": 8}
                file.write(json.dumps({"custom_id": word, "url": "/v1/chat/completions", "body": body}) + "\n")
            file.write("{bad\n")
        alone, spread = os.path.join(folder, "alone"), os.path.join(folder, "spread")
        subprocess.run([PROGRAM, "batch", "-i", prompts, "-o", alone], check=True)
        command = [sys.executable, os.path.join(ROOT, "deploy", "ray_batch.py"), "-i", prompts, "-o", spread]
        command += ["--shards", "4", "--gpus", "0", "--program", PROGRAM, "--address", cluster.address]
        done = subprocess.run(command + ["--", "--device", "soft"], check=True, capture_output=True, text=True)
        assert "6 answers from 4 parts on 2 nodes" in done.stdout, done.stdout + done.stderr
        assert lines(alone) == lines(spread), "the answers differ"
        assert sorted(os.listdir(folder)) == ["alone", "prompts.jsonl", "spread"], os.listdir(folder)
    cluster.shutdown()
    print("two nodes answer as one")


if __name__ == "__main__":
    main()
