"""harness: the real processes for tests, and a client made from server reflection.

    with harness.Stack() as stack:
        stack.start()
        client = harness.Client(stack.target)
        print(client.generate(text="Once upon a time", max_tokens=8).text)

The client knows nothing but the address: messages and methods come from the gateway's own
description, as any tool would get them. Paths: LAMINAR_TEST_MODEL (a GGUF file) and
LAMINAR_TEST_BIN (built binaries).
"""
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
BIN = os.environ.get("LAMINAR_TEST_BIN", os.path.join(ROOT, "bazel-bin"))
MODEL = (os.environ.get("LAMINAR_TEST_MODEL") or os.environ.get("LAMINAR_MODEL")
         or os.path.expanduser("~/.cache/laminar/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
# For what hangs, not for what is slow: the machine may be busy.
START_SECONDS = 300
STOP_SECONDS = 60
CALL_SECONDS = 600


def wait_until(condition, seconds, what):
    """Polls until condition() is true, and returns what it gave."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError(f"{what}: not within {seconds} s")


class Stack:
    """A loader, a gateway and any number of workers on Unix sockets in a directory of their own."""

    def __init__(self, model=MODEL, gateway_flags=(), worker_flags=(), loader_flags=()):
        self.model = model
        self.flags = {"gateway": list(gateway_flags), "worker": list(worker_flags),
                      "loader": list(loader_flags)}
        self.directory = tempfile.mkdtemp(prefix="laminar-test-")
        self.target = f"unix:{self.directory}/gateway.sock"
        self.processes = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, name, program, flags):
        log = open(self.log_path(name), "ab")
        self.processes[name] = subprocess.Popen(
            [os.path.join(BIN, program, f"laminar-{program}"), *flags], stdin=subprocess.DEVNULL,
            stdout=log, stderr=log)
        log.close()

    def log_path(self, name):
        return os.path.join(self.directory, f"{name}.log")

    def logs(self):
        text = ""
        for name in self.processes:
            with open(self.log_path(name), errors="replace") as file:
                text += f"--- {name}\n{file.read()}"
        return text

    def start_loader(self):
        self._run("loader", "loader", [
            "--model", self.model, "--listen", f"unix:{self.directory}/loader.sock",
            "--pool-socket", f"{self.directory}/pool.sock", *self.flags["loader"]])

    def start_gateway(self):
        self._run("gateway", "gateway", ["--listen", self.target, *self.flags["gateway"]])

    def start_worker(self, name="worker"):
        self._run(name, "worker", [
            "--gateway", self.target, "--loader", f"unix:{self.directory}/loader.sock",
            "--pool-socket", f"{self.directory}/pool.sock", "--id", name, *self.flags["worker"]])

    def start(self):
        self.start_loader()
        self.start_gateway()
        self.start_worker()
        return self.wait_for_workers(1)

    def wait_for_workers(self, n):
        """Until n workers are attached; their client."""
        def attached():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise AssertionError(f"{name} ended with {process.returncode}\n{self.logs()}")
            try:
                client = Client(self.target)
                if len(client.model().workers) == n:
                    return client
                client.close()
            except grpc.RpcError:
                pass
            return None
        return wait_until(attached, START_SECONDS, f"{n} workers\n{self.logs()}")

    def kill(self, name, signal_number=signal.SIGKILL):
        """Ends a process and forgets it; its exit code."""
        process = self.processes.pop(name)
        process.send_signal(signal_number)
        return process.wait(STOP_SECONDS)

    def stop(self):
        """Workers first, the loader last, as they depend on each other. The exit codes by name."""
        codes = {}
        order = sorted(self.processes, key=lambda name: (name == "loader", name == "gateway"))
        for name in order:
            if self.processes[name].poll() is None:
                self.processes[name].terminate()
            try:
                codes[name] = self.processes[name].wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.processes[name].kill()
                codes[name] = self.processes[name].wait()
        self.processes = {}
        return codes


class Result:
    """What a Generate stream said."""

    def __init__(self):
        self.messages = []
        self.times = []

    def add(self, message):
        self.messages.append(message)
        self.times.append(time.monotonic())

    @property
    def text(self):
        return "".join(m.text for m in self.messages)

    @property
    def ids(self):
        return [i for m in self.messages for i in m.token_ids]

    @property
    def last(self):
        return self.messages[-1]


class Client:
    """The public API from its reflection."""

    def __init__(self, target):
        self.channel = grpc.insecure_channel(
            target, options=[("grpc.default_authority", "localhost"),
                             ("grpc.use_local_subchannel_pool", 1)])
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)
        self.service = self.pool.FindServiceByName("laminar.v1.Generation")

    def close(self):
        self.channel.close()

    def type(self, name):
        return message_factory.GetMessageClass(
            self.pool.FindMessageTypeByName(f"laminar.v1.{name}"))

    def _method(self, name):
        method = self.service.methods_by_name[name]
        response = message_factory.GetMessageClass(method.output_type)
        make = (self.channel.unary_stream if method.server_streaming
                else self.channel.unary_unary)
        return make(f"/laminar.v1.Generation/{name}",
                    request_serializer=lambda m: (m if isinstance(m, bytes)
                                                  else m.SerializeToString()),
                    response_deserializer=response.FromString)

    def call(self, method, request=None, timeout=CALL_SECONDS, **fields):
        """A unary method; request: a message, raw bytes, or nothing and its fields."""
        if request is None:
            request = self.type(f"{method}Request")(**fields)
        return self._method(method)(request, timeout=timeout)

    def model(self):
        return self.call("GetModel", timeout=60)

    def request(self, text=None, chat=None, ids=None, max_tokens=None, stop=(), ignore_eos=False,
                **sampling):
        """A GenerateRequest. chat: a list of (role, content)."""
        request = self.type("GenerateRequest")()
        if text is not None:
            request.text = text
        if chat is not None:
            request.chat.SetInParent()
            for role, content in chat:
                request.chat.messages.add(role=role, content=content)
        if ids is not None:
            request.token_ids.SetInParent()
            request.token_ids.ids.extend(ids)
        if max_tokens is not None:
            request.max_tokens = max_tokens
        for name, value in sampling.items():
            setattr(request.sampling, name, value)
        request.stop.extend(stop)
        request.ignore_eos = ignore_eos
        return request

    def open(self, request=None, timeout=CALL_SECONDS, **fields):
        """A Generate call as an iterator of messages."""
        return self._method("Generate")(request or self.request(**fields), timeout=timeout)

    def generate(self, request=None, timeout=CALL_SECONDS, **fields):
        """Reads a Generate call to its end."""
        result = Result()
        for message in self.open(request, timeout, **fields):
            result.add(message)
        return result

    def generate_many(self, requests):
        """All at once, each in a thread; the results in order."""
        results = [None] * len(requests)

        def run(index):
            results[index] = self.generate(requests[index])
        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def busy(self):
        """Sequences that are being generated or waiting."""
        model = self.model()
        return model.waiting + sum(worker.sequences for worker in model.workers)
