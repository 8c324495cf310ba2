"""deploy/ray_serve.py on a cluster of two nodes on this machine, softcuda and the embedded model; one node is killed in the middle."""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import time

import ray
import requests
from ray.cluster_utils import Cluster

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = sys.argv[1]
# What no request may take, whatever happens to it. Ray notices a dead node within some 20 s.
LONGEST = 90


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def body(word, **more):
    text = f'Write a haiku about rain that includes the word "{word}"'
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 30, **more}


def ask(url, asked):
    """How a request ended: "answered", or the message of its error; and the replica that answered."""
    answer = requests.post(f"{url}/v1/chat/completions", json=asked, stream=True, timeout=LONGEST)
    replica = answer.headers.get("x-replica")
    if answer.headers["content-type"].startswith("text/event-stream"):
        events = [line[6:] for line in answer.iter_lines() if line.startswith(b"data: ")]
        if events[-1] == b"[DONE]":
            return "answered", replica
        return json.loads(events[-1])["error"]["message"], replica
    value = answer.json()
    if answer.status_code == 200:
        assert value["choices"][0]["finish_reason"], value
        return "answered", replica
    return value["error"]["message"], replica


def main():
    os.environ["FERROWARP_DEVICE"] = "soft"
    # One core for each node, and so one replica. Clients are connected to the node that lives on: two nodes on one machine would
    # share a port, and whose connection a node takes with it would be chance.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, os.path.join(ROOT, "deploy", "ray_serve.py"), "--replicas", "2", "--gpus", "0", "--head-only"]
    command += ["--port", str(port), "--timeout", "60", "--program", PROGRAM, "--address", cluster.address, "--", "--device", "soft"]
    application = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert application.stdout.readline() == f"2 replicas at {url}\n", "the application did not start"

    # What begins alike goes to one replica, whatever comes behind; what does not is spread.
    words = ["tin", "moon", "leaf", "stone", "river", "fern", "salt", "owl"]
    replicas = {}
    for word in words:
        replicas[word] = ask(url, body(word))
        assert replicas[word][0] == "answered", replicas[word]
    assert {ask(url, body("moon", max_tokens=3)) for _ in range(4)} == {replicas["moon"]}, "one beginning, several replicas"
    assert len({replica for _, replica in replicas.values()}) == 2, "eight beginnings, one replica"

    # Answers that take seconds, half of them streams; the second node dies while they are written.
    asked = [body(f"{word} {n}", max_tokens=150, ignore_eos=True, stream=n == 1) for word in words for n in range(2)]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        begin = time.monotonic()
        running = [pool.submit(ask, url, one) for one in asked]
        time.sleep(1.5)
        assert not all(one.done() for one in running), "the answers were too short to be broken off"
        cluster.remove_node(second, allow_graceful=False)
        ends = [one.result() for one in running]
        seconds = time.monotonic() - begin
    answered = sum(end == "answered" for end, _ in ends)
    broken = [end for end, _ in ends if end != "answered"]
    assert seconds < LONGEST, f"the last request ended after {seconds:.0f} s"
    assert answered > 0, ends
    # A stream whose beginning is out cannot be begun anew; whatever has sent nothing yet is answered by the other replica.
    streams = [end for end, one in zip(ends, asked) if one["stream"]]
    assert all(end[0] == "answered" for end, one in zip(ends, asked) if not one["stream"]), ends
    assert all("replica that wrote this answer is gone" in message for message in broken), broken

    # One replica is left, and answers everything.
    for word in words:
        end, replica = ask(url, body(word))
        assert end == "answered", end
    print(f"{answered} of {len(ends)} answered, {len(broken)} of {len(streams)} streams broken off with an error, {seconds:.0f} s")

    # The node comes back, and with it the second replica.
    cluster.add_node(num_cpus=1)
    deadline = time.monotonic() + LONGEST
    while len({ask(url, body(word))[1] for word in words}) < 2:
        assert time.monotonic() < deadline, "no second replica on the new node"
        time.sleep(1)
    application.send_signal(signal.SIGTERM)
    assert application.wait(LONGEST) == 0, "the application did not end"
    ray.shutdown()
    cluster.shutdown()
    left = subprocess.run(["pgrep", "-f", f"{PROGRAM} serve --device soft --host"], capture_output=True, text=True).stdout.split()
    assert not left, f"processes that nobody ended: {left}"
    print("two nodes serve as one, and one without the other")


if __name__ == "__main__":
    main()
