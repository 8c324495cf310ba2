"""Measures a server's answers under load: prompts of one length, answers of another, by a number of clients at once.

    python3 benches/chats.py http://127.0.0.1:8080 [--clients 1,8,32,64] [--n-prompt 1000] [--n-gen 200] [--rounds 2]

Asks /v1/completions for streams, with prompts that have no beginning in common; lengths are measured by /tokenize. Works with any server that has
both: ferrowarp's, llama.cpp's. Prints a table: requests and tokens a second, time to the first token and between two, median and 99th of a
hundred, in milliseconds. Nothing but Python is needed."""

import argparse
import http.client
import json
import multiprocessing
import random
import threading
import time
from urllib.parse import urlsplit

# Clients of one process share an interpreter's lock; more of them would measure it.
CLIENTS_A_PROCESS = 8


def post(connection, path, body):
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{path}: {response.status} {response.read()[:300]}")
    return response


def connect(url):
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)


def words(rng, n):
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(n))


def prompt(connection, rng, n_tokens):
    """Words of n_tokens tokens, or very few less."""
    count = lambda text: len(json.loads(post(connection, "/tokenize", {"content": text}).read())["tokens"])
    text = words(rng, n_tokens)
    while (found := count(text)) > n_tokens:
        text = text[: max(1, int(len(text) * n_tokens / found) - 1)]
    return text


def ask(url, text, n_gen):
    """On a connection of its own, which a server may close behind an answer: times at which parts of the answer came, the time of asking first, and how many tokens it has."""
    body = {
        "prompt": text, "max_tokens": n_gen, "ignore_eos": True, "stream": True, "temperature": 1, "top_k": 40,
        "stream_options": {"include_usage": True},
    }
    connection = connect(url)
    connection.connect()
    times, n_tokens = [time.perf_counter()], 0
    response = post(connection, "/v1/completions", body)
    while line := response.readline():
        if not line.startswith(b"data: {"):
            continue
        now, data = time.perf_counter(), json.loads(line[6:])
        if any(choice["text"] for choice in data.get("choices", [])):
            times.append(now)
        if data.get("usage"):
            n_tokens = data["usage"]["completion_tokens"]
    connection.close()
    if n_tokens != n_gen:
        raise SystemExit(f"an answer has {n_tokens} tokens, asked for were {n_gen}")
    return times


def process(url, seed, n_clients, rounds, n_prompt, n_gen, barrier, results):
    rng = random.Random(seed)
    connection = connect(url)
    texts = [[prompt(connection, rng, n_prompt) for _ in range(rounds)] for _ in range(n_clients)]
    connection.close()
    answers = []
    run = lambda texts: answers.extend(ask(url, text, n_gen) for text in texts)
    threads = [threading.Thread(target=run, args=(texts,)) for texts in texts]
    barrier.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(answers)


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p / 100 * len(values)))]


def measure(url, n_clients, rounds, n_prompt, n_gen):
    groups = [min(CLIENTS_A_PROCESS, n_clients - at) for at in range(0, n_clients, CLIENTS_A_PROCESS)]
    barrier, results = multiprocessing.Barrier(len(groups)), multiprocessing.Queue()
    seeds = range(n_clients * 1000, n_clients * 1000 + len(groups))
    processes = [
        multiprocessing.Process(target=process, args=(url, seed, n, rounds, n_prompt, n_gen, barrier, results))
        for seed, n in zip(seeds, groups)
    ]
    for one in processes:
        one.start()
    answers = [answer for _ in groups for answer in results.get(timeout=1200)]
    for one in processes:
        one.join()
    if len(answers) != n_clients * rounds:
        raise SystemExit(f"{len(answers)} answers of {n_clients * rounds} came whole")
    seconds = max(times[-1] for times in answers) - min(times[0] for times in answers)
    first = [1e3 * (times[1] - times[0]) for times in answers]
    between = [1e3 * (b - a) for times in answers for a, b in zip(times[1:], times[2:])]
    return (
        n_clients, f"{len(answers) / seconds:.2f}", f"{len(answers) * n_gen / seconds:.0f}",
        *(f"{percentile(first, p):.0f}" for p in (50, 99)), *(f"{percentile(between, p):.1f}" for p in (50, 99)),
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("url")
    arguments.add_argument("--clients", default="1,8,32,64")
    arguments.add_argument("--n-prompt", type=int, default=1000)
    arguments.add_argument("--n-gen", type=int, default=200)
    arguments.add_argument("--rounds", type=int, default=2)
    got = arguments.parse_args()
    ask(got.url, "once, to be warm", got.n_gen)
    print("| clients | requests/s | tokens/s | first token, ms: p50 | p99 | between tokens, ms: p50 | p99 |")
    print("|---|---|---|---|---|---|---|")
    for n_clients in map(int, got.clients.split(",")):
        print("|", " | ".join(map(str, measure(got.url, n_clients, got.rounds, got.n_prompt, got.n_gen))), "|", flush=True)


if __name__ == "__main__":
    main()
