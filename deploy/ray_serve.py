#!/usr/bin/env python3
"""Serves a model from the machines of a Ray cluster: N `ferrowarp serve` processes behind one address, as a Ray Serve application.

Each replica is a process on some node, with a GPU of its own (`--gpus 0` for softcuda); the program and the model lie on every node,
under the same paths. Ray starts a replica anew where its process or its node died. Requests that begin alike go to the same replica,
whose cache then has their beginning (`PrefixRouter`). A request whose replica dies is asked again of another, as long as nothing of its
answer has been sent; after that it ends with an error object, in a stream too. Nothing waits longer than `--timeout`.

    pip install 'ray[serve]'
    python deploy/ray_serve.py -m model.gguf --replicas 4 --port 8080

What stands behind `--` goes to `ferrowarp serve`. Ctrl-C or SIGTERM takes the application down.
"""

import argparse
import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import aiohttp
import ray
from ray import serve
from ray.serve.config import HTTPOptions, RequestRouterConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.request_router import RequestRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

# How many characters of a request tell which requests begin alike: a system prompt's worth.
BEGINNING = 2048
# How many more requests than the least busy replica has a replica may have and still get what begins alike.
SPREAD = 8
# Headers that concern one connection, not the answer.
OF_CONNECTION = {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="the GGUF file, on every node; without it the embedded model")
    parser.add_argument("--replicas", type=int, default=2, help="ferrowarp processes [default: 2]")
    parser.add_argument("--gpus", type=float, default=1, help="GPUs of a replica; 0 for softcuda [default: 1]")
    parser.add_argument("--cpus", type=float, default=1, help="CPU cores of a replica [default: 1]")
    parser.add_argument("--parallel", type=int, default=64, help="requests that a replica has at a time [default: 64]")
    parser.add_argument("--queue", type=int, default=256, help="requests that wait; more are told to come again [default: 256]")
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a request may take [default: 600]")
    parser.add_argument("--host", default="127.0.0.1", help="the address that is listened at [default: 127.0.0.1]")
    parser.add_argument("--port", type=int, default=8080, help="the port [default: 8080]")
    parser.add_argument("--head-only", action="store_true", help="listen on the cluster's first node only, not on every one")
    parser.add_argument("--address", default="auto", help="the cluster [default: the one that this machine is of]")
    parser.add_argument("--program", default="ferrowarp", help="the program, on every node [default: ferrowarp]")
    parser.add_argument("more", nargs="*", help="further arguments of ferrowarp serve, after --")
    return parser.parse_args()


class PrefixRouter(RequestRouter):
    """Sends requests that begin alike to the same replica.

    Which one follows from the beginning and the replicas' names alone (rendezvous hashing): every proxy knows it without asking
    anybody, a node that dies takes no table with it, and a replica that comes or goes moves only its own share. A replica that is much
    busier than another is passed over.
    """

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        beginning = pending_request.kwargs.get("beginning", "") if pending_request else ""
        if not beginning:
            return [candidate_replicas]

        def weight(replica):
            return hashlib.blake2b(f"{replica.replica_id.unique_id} {beginning}".encode()).digest()

        load = {replica.replica_id: self.replica_queue_len_cache.get(replica.replica_id) or 0 for replica in candidate_replicas}
        idle = min(load.values(), default=0)
        near = [replica for replica in candidate_replicas if load[replica.replica_id] - idle <= SPREAD]
        first = max(near, key=weight)
        return [[first], [replica for replica in candidate_replicas if replica is not first]]


def beginning_of(body):
    """What a request begins with; nothing where it has no text."""
    try:
        asked = json.loads(body)
        said = asked.get("messages") or asked.get("prompt") or asked.get("input")
        return json.dumps([asked.get("system"), asked.get("instructions"), said])[:BEGINNING] if said else ""
    except (ValueError, AttributeError):
        return ""


def error(status, kind, message, headers=None):
    """An answer that says what is wrong, as OpenAI's clients read it."""
    return Response(json.dumps(error_object(kind, message)), status, headers, media_type="application/json")


def error_object(kind, message):
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


@serve.deployment(
    max_ongoing_requests=64,
    health_check_period_s=5,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=30,
    request_router_config=RequestRouterConfig(request_router_class=PrefixRouter),
)
class Replica:
    """A `ferrowarp serve` process, and the way to it."""

    async def __init__(self, command, timeout):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        # However this process ends, the kernel tells that one to end as well.
        command = ["setpriv", "--pdeathsig", "TERM", *command, "--host", "127.0.0.1", "--port", str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.name = serve.get_replica_context().replica_id.unique_id
        self.http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=timeout), auto_decompress=False
        )
        # However long it takes to load the model, Ray waits and says so.
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {self.process.returncode}")
            try:
                async with self.http.get(f"{self.url}/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)

    async def check_health(self):
        async with self.http.get(f"{self.url}/health") as answer:
            if answer.status != 200:
                raise RuntimeError(f"{self.url}/health answered {answer.status}")

    async def ask(self, method, path, headers, body, beginning=""):
        """The status and headers of an answer, then its bytes as they come. `beginning` is the router's."""
        async with self.http.request(method, self.url + path, headers=headers, data=body) as answer:
            passed = {name: value for name, value in answer.headers.items() if name.lower() not in OF_CONNECTION}
            yield answer.status, {**passed, "x-replica": self.name}
            async for part in answer.content.iter_any():
                yield part

    def __del__(self):
        self.process.terminate()
        self.process.wait()


@serve.deployment(max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0})
class Ingress:
    """Takes requests from Ray's proxy and passes them on to a replica."""

    def __init__(self, replicas, n_replicas, timeout):
        self.replicas = replicas.options(stream=True)
        self.n_replicas = n_replicas
        self.timeout = timeout

    async def __call__(self, request: Request):
        body = await request.body()
        headers = {name: value for name, value in request.headers.items() if name not in OF_CONNECTION}
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        deadline = asyncio.get_running_loop().time() + self.timeout
        # A replica that died is asked no more, and so one try more than there are replicas is enough.
        for _ in range(self.n_replicas + 1):
            parts = aiter(self.replicas.ask.remote(request.method, path, headers, body, beginning=beginning_of(body)))
            try:
                async with asyncio.timeout_at(deadline):
                    status, passed = await anext(parts)
            except BackPressureError:
                return error(429, "rate_limit_error", "every replica is busy, and as many requests wait as may", {"retry-after": "1"})
            except TimeoutError:
                return error(504, "server_error", f"no replica began to answer within {self.timeout} s")
            except Exception as failure:  # Ray and the connection have many ways to say that a replica is gone.
                why = type(failure).__name__
                continue
            if passed.get("content-type", passed.get("Content-Type", "")).startswith("text/event-stream"):
                return StreamingResponse(self.stream(parts, deadline), status, passed)
            try:
                async with asyncio.timeout_at(deadline):
                    whole = b"".join([part async for part in parts])
                return Response(whole, status, passed)
            except TimeoutError:
                return error(504, "server_error", f"the answer took longer than {self.timeout} s")
            except Exception as failure:
                why = type(failure).__name__
        return error(503, "server_error", f"no replica could answer ({why})", {"retry-after": "1"})

    async def stream(self, parts, deadline):
        """The parts of a stream; where its replica dies, an error as its last event."""
        try:
            async with asyncio.timeout_at(deadline):
                async for part in parts:
                    yield part
        except TimeoutError:
            yield event(f"the answer took longer than {self.timeout} s")
        except Exception as failure:
            yield event(f"the replica that wrote this answer is gone ({type(failure).__name__})")


def event(message):
    # What came before may have ended in the middle of an event.
    return f"\n\ndata: {json.dumps(error_object('server_error', message))}\n\n".encode()


def main():
    options = arguments()
    if options.replicas < 1:
        sys.exit(f"--replicas: found {options.replicas}, expected a number of processes, at least 1")
    command = [options.program, "serve"]
    if options.model:
        command += ["-m", os.path.abspath(options.model)]
    command += options.more
    ray.init(address=options.address, log_to_driver=False)
    location = "HeadOnly" if options.head_only else "EveryNode"
    http = HTTPOptions(host=options.host, port=options.port, location=location, request_timeout_s=options.timeout + 10)
    serve.start(http_options=http)
    replicas = Replica.options(
        num_replicas=options.replicas,
        max_ongoing_requests=options.parallel,
        max_queued_requests=options.queue,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
    ).bind(command, options.timeout)
    # One on each node where a proxy is: the proxy prefers it, and so a node that dies takes nobody else's connections with it.
    if options.head_only:
        ingress = Ingress.options(ray_actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}})
    else:
        nodes = sum(node["Alive"] for node in ray.nodes())
        ingress = Ingress.options(num_replicas=nodes, max_replicas_per_node=1)
    application = ingress.bind(replicas, options.replicas, options.timeout)
    serve.run(application, name="ferrowarp", route_prefix="/")
    print(f"{options.replicas} replicas at http://{options.host}:{options.port}", flush=True)
    ended = threading.Event()
    for one in [signal.SIGINT, signal.SIGTERM]:
        signal.signal(one, lambda *_: ended.set())
    ended.wait()
    serve.delete("ferrowarp")


if __name__ == "__main__":
    main()
