#!/usr/bin/env python3
"""Laminar beside llama.cpp: tokens per second on the same file, with the same threads, in one run.

    bench/vs_llamacpp.py MODEL [--threads N] [--prompt 512] [--gen 64] [--pairs 5] [--json]

Needs the PyPI package llama-cpp-python in the Python that runs it; it builds llama.cpp from source.
Where its AMX code does not run, build it with
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_VBMI=ON"
The two take turns (A-B-A-B), medians are compared: machines are noisy, ratios within one run are
not. Ours is the whole service, gRPC included, as `laminar serve` runs it; theirs is the library in
this process.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLI = os.path.join(ROOT, "bazel-bin", "cli", "laminar")


class Ours:
    """One serving stack; each measurement is one request of token ids."""

    def __init__(self, model, threads):
        self.stack = subprocess.Popen(
            [CLI, "serve", model, "--listen", "127.0.0.1:0", "--threads", str(threads)],
            stdout=subprocess.PIPE, text=True)
        words = self.stack.stdout.readline().split()
        if not words:
            sys.exit("laminar serve did not start; its reason stands above")
        self.target = words[-1]

    def measure(self, prompt, gen):
        import grpc
        from google.protobuf import descriptor_pool, message_factory
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
            ProtoReflectionDescriptorDatabase)
        with grpc.insecure_channel(self.target) as channel:
            pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            kind = {name: message_factory.GetMessageClass(
                pool.FindMessageTypeByName("laminar.v1." + name))
                for name in ("GenerateRequest", "GenerateResponse")}
            request = kind["GenerateRequest"](max_tokens=gen, ignore_eos=True)
            request.token_ids.ids.extend(prompt)
            request.sampling.temperature = 0
            call = channel.unary_stream(
                "/laminar.v1.Generation/Generate",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=kind["GenerateResponse"].FromString)
            usage = [answer for answer in call(request)][-1].usage
        return len(prompt) / usage.prefill_seconds, (gen - 1) / usage.decode_seconds

    def close(self):
        self.stack.terminate()
        self.stack.wait()


class Theirs:
    def __init__(self, model, threads):
        from llama_cpp import Llama
        self.llama = Llama(model, n_ctx=2048, n_threads=threads, n_threads_batch=threads,
                           n_batch=512, n_ubatch=512, verbose=False)

    def measure(self, prompt, gen):
        self.llama.reset()
        begin = time.perf_counter()
        self.llama.eval(prompt)
        token = int(self.llama.sample(temp=0))
        first = time.perf_counter()
        for _ in range(gen - 1):
            self.llama.eval([token])
            token = int(self.llama.sample(temp=0))
        return len(prompt) / (first - begin), (gen - 1) / (time.perf_counter() - first)

    def close(self):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    prompt = [random.Random(1).randrange(1000, 40000) for _ in range(args.prompt)]
    ours, theirs = Ours(args.model, args.threads), Theirs(args.model, args.threads)
    readings = []
    try:
        for engine in (ours, theirs):
            engine.measure(prompt, 4)
        for pair in range(args.pairs):
            readings.append(ours.measure(prompt, args.gen) + theirs.measure(prompt, args.gen))
            print("pair %d  prefill %.0f | %.0f   decode %.1f | %.1f tokens/s (ours | theirs)"
                  % ((pair,) + tuple(readings[-1][i] for i in (0, 2, 1, 3))), file=sys.stderr)
    finally:
        ours.close()
        theirs.close()
    ours_prefill, ours_decode, prefill, decode = (
        statistics.median(column) for column in zip(*readings))
    result = {
        "version": 1, "threads": args.threads, "prompt": args.prompt, "gen": args.gen,
        "prefill_tokens_per_second": ours_prefill, "llamacpp_prefill": prefill,
        "prefill_ratio": ours_prefill / prefill,
        "decode_tokens_per_second": ours_decode, "llamacpp_decode": decode,
        "decode_ratio": ours_decode / decode,
    }
    if args.json:
        print(json.dumps(result))
    else:
        print("prefill %.0f against %.0f tokens/s: %.2f\ndecode  %.1f against %.1f tokens/s: %.2f"
              % (ours_prefill, prefill, result["prefill_ratio"],
                 ours_decode, decode, result["decode_ratio"]))


if __name__ == "__main__":
    main()
