"""The public API from outside: real processes, the demo model, a client that is not ours."""
import os
import signal
import struct
import subprocess
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import harness

PROMPT = "The capital of France is"
STORY = "Once upon a time, in a village by the sea,"
CANARY = "xylophone-canary-73519"


@pytest.fixture(scope="module")
def stack():
    with harness.Stack(worker_flags=["--batch", "4", "--ctx", "512"]) as running:
        running.start()
        yield running
        codes = running.stop()
        assert codes == {"worker": 0, "gateway": 0, "loader": 0}
        assert not any(name.endswith(".sock") for name in os.listdir(running.directory))


@pytest.fixture(scope="module")
def client(stack):
    made = harness.Client(stack.target)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_left(request):
    """After each test on the shared stack no sequence runs, waits or holds memory."""
    yield
    if "client" in request.fixturenames:
        shared = request.getfixturevalue("client")
        harness.wait_until(lambda: shared.busy() == 0, 60, "the gateway becomes idle")
        assert sum(worker.kv_tokens for worker in shared.model().workers) == 0


def status_of(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


# ---- what a request brings ----

def test_text_prompt(client):
    result = client.generate(text=PROMPT, max_tokens=8, temperature=0)
    assert "Paris" in result.text
    assert result.last.finish_reason == 2
    assert result.last.usage.prompt_tokens == len(
        client.call("Tokenize", text=PROMPT).token_ids)
    assert result.last.usage.completion_tokens == len(result.ids) == 8
    assert result.last.usage.prefill_seconds > 0
    assert result.last.usage.decode_seconds > 0


def test_token_ids_are_the_same_prompt(client):
    ids = client.call("Tokenize", text=PROMPT).token_ids
    by_text = client.generate(text=PROMPT, max_tokens=12, temperature=0)
    by_ids = client.generate(ids=ids, max_tokens=12, temperature=0)
    assert by_ids.ids == by_text.ids
    assert by_ids.text == by_text.text


def test_chat_ends_by_itself(client):
    result = client.generate(chat=[("user", "Say hello.")], max_tokens=200, temperature=0)
    assert result.last.finish_reason == 1
    assert 0 < len(result.text)
    assert "<|im_end|>" not in result.text


def test_chat_text_never_becomes_control_tokens(client):
    chat = client.type("Chat")()
    chat.messages.add(role="user", content="a<|im_end|>b")
    plain = client.type("Chat")()
    plain.messages.add(role="user", content="ab")
    end = client.call("Tokenize", text="<|im_end|>", parse_special=True).token_ids
    assert len(end) == 1
    spelled = client.call("Tokenize", chat=chat).token_ids
    assert list(spelled).count(end[0]) == list(
        client.call("Tokenize", chat=plain).token_ids).count(end[0])


def test_default_length_is_the_rest_of_the_context(client):
    ids = [100] * 500
    result = client.generate(ids=ids, temperature=0, ignore_eos=True)
    assert len(result.ids) == 512 - 500
    assert result.last.finish_reason == 2


# ---- what comes back ----

def test_streaming_is_incremental(client):
    result = client.generate(text=STORY, max_tokens=32, temperature=0, ignore_eos=True)
    assert len(result.messages) >= 16
    assert result.times[-1] - result.times[0] > 0.3 * result.last.usage.decode_seconds
    middle = result.times[len(result.times) // 2]
    assert result.times[0] < middle < result.times[-1]


def test_stop_string_over_token_borders(client):
    whole = client.generate(text=STORY, max_tokens=40, temperature=0, ignore_eos=True).text
    for begin in (5, 9, 14, 23):
        stop = whole[begin:begin + 7]
        cut = whole.index(stop)
        result = client.generate(text=STORY, max_tokens=40, temperature=0, ignore_eos=True,
                                 stop=["never matches", stop])
        assert result.text == whole[:cut]
        assert result.last.finish_reason == 1
        assert result.last.matched_stop == stop


def test_messages_are_whole_utf8(client):
    """Emoji take several tokens each; protobuf itself refuses a message with half of one."""
    result = client.generate(
        chat=[("user", "Answer only with these: \U0001f600\U0001f680\u00e9\u6f22\u5b57")],
        max_tokens=40, temperature=0)
    assert result.text.encode().decode() == result.text


def test_seeds(client):
    def draw(**sampling):
        return client.generate(text=STORY, max_tokens=24, ignore_eos=True, **sampling)
    first = draw(seed=7)
    assert draw(seed=7).text == first.text
    assert first.last.seed == 7
    assert draw(seed=8).text != first.text
    drawn = draw()
    assert draw(seed=drawn.last.seed).text == drawn.text
    assert draw(seed=2**64 - 1).last.seed == 2**64 - 1


# ---- sharing ----

def test_greedy_text_does_not_depend_on_the_batch(client):
    prompts = [PROMPT, STORY, "def fibonacci(n):", "Les trois couleurs du drapeau"]
    requests = [client.request(text=prompt, max_tokens=24, temperature=0, ignore_eos=True)
                for prompt in prompts]
    alone = [client.generate(request).ids for request in requests]
    together = [result.ids for result in client.generate_many(requests)]
    assert together == alone


def test_four_at_once_share_passes(client):
    def request(n):
        return client.request(text=f"{STORY} number {n}", max_tokens=32, temperature=0,
                              ignore_eos=True)

    def measure(requests):
        before, began = client.model().workers[0].passes, time.monotonic()
        client.generate_many(requests)
        return client.model().workers[0].passes - before, time.monotonic() - began
    client.generate(request(0))
    ratio, rounds = 4, 0  # 4: one after the other would be as fast
    while ratio >= 4 and rounds < 8:  # other work on the machine makes a round long, not all
        one_passes, one_seconds = measure([request(1)])
        four_passes, four_seconds = measure([request(n) for n in range(4)])
        print(f"\none: {one_passes} passes, {one_seconds:.2f} s; "
              f"four: {four_passes} passes, {four_seconds:.2f} s")
        assert one_passes == 32
        assert four_passes < 3 * one_passes
        ratio, rounds = four_seconds / one_seconds, rounds + 1
    assert ratio < 4


def test_more_requests_than_slots(client):
    requests = [client.request(text=f"{n}, {n + 1},", max_tokens=8, temperature=0,
                               ignore_eos=True) for n in range(10)]
    alone = [client.generate(request).ids for request in requests]
    assert [result.ids for result in client.generate_many(requests)] == alone


# ---- going away ----

def test_cancel_stops_computing(client):
    call = client.open(text=STORY, max_tokens=400, ignore_eos=True)
    next(call)
    assert client.busy() == 1
    passes = client.model().workers[0].passes
    call.cancel()
    harness.wait_until(lambda: client.busy() == 0, 60, "the cancelled sequence leaves")
    time.sleep(0.5)
    assert client.model().workers[0].passes < passes + 200  # and not the 400 of the request


def test_cancel_while_waiting(client):
    running = [client.open(text=STORY, max_tokens=300, ignore_eos=True) for _ in range(4)]
    for call in running:
        next(call)
    waiting = client.open(text=STORY, max_tokens=300, ignore_eos=True)
    harness.wait_until(lambda: client.model().waiting == 1, 60, "the fifth one waits")
    passes = client.model().workers[0].passes
    waiting.cancel()
    harness.wait_until(lambda: client.model().waiting == 0, 60, "the fifth one leaves")
    assert client.model().workers[0].passes < passes + 200  # before any of the others has ended
    for call in running:
        call.cancel()


def test_deadline(client):
    passes = client.model().workers[0].passes
    code, _ = status_of(lambda: client.generate(text=STORY, max_tokens=500, ignore_eos=True,
                                                timeout=0.7))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    harness.wait_until(lambda: client.busy() == 0, 60, "the late sequence leaves")
    assert client.model().workers[0].passes < passes + 500


# ---- bad input ----

INVALID = grpc.StatusCode.INVALID_ARGUMENT
BAD_FIELDS = [
    ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 2**31 - 1}, "max_tokens"), ({"max_tokens": 513}, "max_tokens"),
    ({"temperature": float("nan")}, "temperature"), ({"temperature": -1}, "temperature"),
    ({"temperature": 101}, "temperature"), ({"temperature": float("inf")}, "temperature"),
    ({"top_p": 0}, "top_p"), ({"top_p": 2}, "top_p"), ({"top_k": -1}, "top_k"),
    ({"min_p": -0.5}, "min_p"), ({"min_p": 1.5}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"stop": ["x"] * 9}, "stop"), ({"stop": [""]}, "stop"), ({"stop": ["x" * 65]}, "stop"),
    ({"stop": ["x"] * 10000}, "stop"),
]


@pytest.mark.parametrize("fields,word", BAD_FIELDS)
def test_bad_field(client, fields, word):
    code, text = status_of(lambda: client.generate(text="x", **fields))
    assert code == INVALID
    assert word in text


@pytest.mark.parametrize("prompt,word", [
    ({"text": ""}, "empty"),
    ({"ids": []}, "empty"),
    ({"chat": []}, "empty"),
    ({"ids": [1, -1]}, "token_ids[1]"),
    ({"ids": [49152]}, "49151"),
    ({"ids": [1] * 512}, "512"),
    ({"text": "word " * 600}, "512"),
    ({"chat": [("wizard", "hi")]}, "wizard"),
    ({}, "prompt"),
])
def test_bad_prompt(client, prompt, word):
    code, text = status_of(lambda: client.generate(**prompt))
    assert code == INVALID
    assert word in text


def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7f | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


@pytest.mark.parametrize("message,codes", [
    (field(1, b"a\xff\xfe"), {INVALID}),                         # invalid UTF-8
    (field(1, b"\xc0\x80"), {INVALID}),                          # an overlong form
    (field(1, b"\xed\xa0\x80"), {INVALID}),                      # a lone surrogate
    (field(1, b"a\0b"), {INVALID}),                              # U+0000
    (b"\x0a\x05ab", {INVALID}),                                  # shorter than it says
    (b"\x0a" + b"\xff" * 10, {INVALID}),                         # a varint without an end
    (b"\x0b\x0c", {INVALID}),                                    # group wire types
    (field(1, b"x") + field(2, b"\x0a\x00" * 100000), {INVALID,  # many empty messages
                                                       grpc.StatusCode.RESOURCE_EXHAUSTED}),
    (field(1, b"x") + field(5, b"\x0d" + struct.pack("<f", float("nan"))), {INVALID}),
    (field(1, b"x" * (1 << 20)), {grpc.StatusCode.RESOURCE_EXHAUSTED}),  # over 1 MiB
    (field(1, b"x" * (3 << 20)), {grpc.StatusCode.RESOURCE_EXHAUSTED}),
])
def test_bad_bytes(client, message, codes):
    code, _ = status_of(lambda: client.generate(message))
    assert code in codes


def test_an_error_does_not_repeat_the_prompt(client):
    _, text = status_of(lambda: client.generate(text=CANARY, max_tokens=0))
    assert CANARY not in text


def test_unknown_method(client):
    call = client.channel.unary_unary("/laminar.v1.Generation/Nope")
    code, _ = status_of(lambda: call(b"", timeout=60))
    assert code == grpc.StatusCode.UNIMPLEMENTED


# ---- what else the port says ----

def test_tokenize_round_trip(client):
    for text in ["hello world", "  spaces  and\ttabs\n\n",
                 "\u00dcn\u00efc\u00f6d\u00e9 \u6f22\u5b57",
                 "\U0001f680\U0001f468\u200d\U0001f469\u200d\U0001f467", "12345 67,890.00",
                 "def f(x):\n    return x**2\n", "<|im_end|> is text here"]:
        tokens = client.call("Tokenize", text=text)
        assert client.call("Detokenize", token_ids=tokens.token_ids).text == text
        assert len(tokens.pieces) == len(tokens.token_ids) > 0
    special = client.call("Tokenize", text="a<|im_end|>", parse_special=True).token_ids
    assert client.call("Detokenize", token_ids=special).text == "a"
    assert client.call("Detokenize", token_ids=special,
                       show_special=True).text == "a<|im_end|>"
    assert status_of(lambda: client.call("Detokenize", token_ids=[-1]))[0] == INVALID
    assert status_of(lambda: client.call("Tokenize", text=""))[0] == INVALID


def test_get_model(client):
    model = client.model()
    assert model.architecture == "llama"
    assert model.vocabulary == 49152
    assert model.context_tokens == 512
    assert model.chat_template == "chatml"
    assert len(model.workers) == 1
    assert model.workers[0].device == "cpu"
    assert model.workers[0].max_sequences == 4


def test_profile_adds_up(client):
    """Every pass is accounted for: what was not waited for was computed."""
    client.generate(text="one two three", max_tokens=4)
    worker = client.model().workers[0]
    total, last = worker.profile, worker.last_pass
    assert total.wall_seconds > last.wall_seconds > 0
    assert total.compute_seconds > 0 and total.disk_wait_seconds >= 0
    parts = total.compute_seconds + total.disk_wait_seconds + total.link_wait_seconds
    assert parts <= total.wall_seconds * 1.001


def test_health(client):
    stub = health_pb2_grpc.HealthStub(client.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ["", "laminar.v1.Generation"]:
        request = health_pb2.HealthCheckRequest(service=name)
        assert stub.Check(request, timeout=60).status == serving
        watch = stub.Watch(request, timeout=60)
        assert next(watch).status == serving
        watch.cancel()
    code, _ = status_of(lambda: stub.Check(
        health_pb2.HealthCheckRequest(service="nope"), timeout=60))
    assert code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(client, version):
    ask = client.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
    request = reflection_pb2.ServerReflectionRequest
    answers = list(ask(iter([
        request(list_services=""),
        request(file_containing_symbol="laminar.v1.Generation"),
        request(file_by_filename="laminar/v1/generation.proto"),
        request(file_containing_symbol="laminar.v1.Nope"),
    ]), timeout=60))
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"laminar.v1.Generation", "laminar.v1.Workers", "grpc.health.v1.Health"} <= names
    for answer in answers[1:3]:
        assert len(answer.file_descriptor_response.file_descriptor_proto) >= 1
    assert answers[3].error_response.error_code == 5


def test_logs_hold_no_text(stack, client):
    client.generate(text=CANARY, max_tokens=2)
    client.generate(chat=[("user", CANARY)], max_tokens=2)
    status_of(lambda: client.generate(text=CANARY, max_tokens=-1))
    assert CANARY not in stack.logs()
    assert "attached" in stack.logs()


# ---- processes that end: each test has its own ----

def test_worker_killed_in_the_middle():
    """The client reads one text without a gap, computed by two processes."""
    with harness.Stack(worker_flags=["--ctx", "512"]) as stack:
        client = stack.start()
        whole = client.generate(text=STORY, max_tokens=48, temperature=0, ignore_eos=True)
        sampled = client.generate(text=STORY, max_tokens=48, seed=11, ignore_eos=True)
        health = health_pb2_grpc.HealthStub(client.channel).Watch(
            health_pb2.HealthCheckRequest(service="laminar.v1.Generation"), timeout=60)
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        greedy_call = client.open(text=STORY, max_tokens=48, temperature=0, ignore_eos=True)
        sampled_call = client.open(text=STORY, max_tokens=48, seed=11, ignore_eos=True)
        text, others = "", ""
        for _ in range(10):
            text += next(greedy_call).text
            others += next(sampled_call).text
        stack.kill("worker")
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        stack.start_worker("another")
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        for message in greedy_call:
            text += message.text
        for message in sampled_call:
            others += message.text
        assert text == whole.text
        assert others == sampled.text
        client.close()


def test_no_worker_comes_back():
    with harness.Stack(worker_flags=["--ctx", "512"],
                       gateway_flags=["--worker-timeout", "1"]) as stack:
        client = stack.start()
        call = client.open(text=STORY, max_tokens=400, ignore_eos=True)
        next(call)
        began = time.monotonic()
        stack.kill("worker")
        code, text = status_of(lambda: list(call))
        assert code == grpc.StatusCode.UNAVAILABLE
        assert "no worker" in text
        assert time.monotonic() - began > 0.5
        client.close()


def test_replicas():
    """Two workers share the requests; one dies; all texts are as before."""
    with harness.Stack(worker_flags=["--ctx", "512", "--threads", "1"]) as stack:
        stack.start()
        stack.start_worker("second")
        client = stack.wait_for_workers(2)
        requests = [client.request(text=f"{STORY} {n}", max_tokens=48, temperature=0,
                                   ignore_eos=True) for n in range(4)]
        alone = [client.generate(request).ids for request in requests]
        results = []
        thread = threading.Thread(target=lambda: results.extend(client.generate_many(requests)))
        thread.start()
        harness.wait_until(lambda: [w.sequences for w in client.model().workers] == [2, 2], 60,
                           "both have two sequences")
        time.sleep(0.2)
        stack.kill("worker")
        thread.join()
        assert [result.ids for result in results] == alone
        client.close()


def test_gateway_killed_and_restarted():
    """Its clients are told; the worker dials in again by itself."""
    with harness.Stack(worker_flags=["--ctx", "512"]) as stack:
        client = stack.start()
        call = client.open(text=STORY, max_tokens=400, ignore_eos=True)
        next(call)
        stack.kill("gateway")
        code, _ = status_of(lambda: list(call))
        assert code == grpc.StatusCode.UNAVAILABLE
        client.close()
        stack.start_gateway()
        client = stack.wait_for_workers(1)
        assert client.busy() == 0
        assert "Paris" in client.generate(text=PROMPT, max_tokens=8, temperature=0).text
        client.close()


def test_sigterm_lets_a_generation_end():
    with harness.Stack(worker_flags=["--ctx", "512"]) as stack:
        client = stack.start()
        call = client.open(text=STORY, max_tokens=40, temperature=0, ignore_eos=True)
        n_ids = len(next(call).token_ids)
        gateway = stack.processes["gateway"]
        gateway.send_signal(signal.SIGTERM)
        for message in call:
            n_ids += len(message.token_ids)
        assert n_ids == 40
        assert gateway.wait(harness.STOP_SECONDS) == 0
        client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_dir_goes_at_the_end(tmp_path, number):
    folder = tmp_path / "run"
    folder.mkdir()
    process = subprocess.Popen(
        [f"{harness.BIN}/gateway/laminar-gateway", "--listen", f"unix:{folder}/g.sock",
         "--run-dir", str(folder)], stderr=subprocess.DEVNULL)
    harness.wait_until(lambda: (folder / "g.sock").exists(), 60, "the socket")
    process.send_signal(number)
    assert process.wait(harness.STOP_SECONDS) == 0
    assert not folder.exists()


def gateway(*flags):
    """Runs a gateway that is not expected to stay; exit code and what it said."""
    done = subprocess.run([f"{harness.BIN}/gateway/laminar-gateway", *flags], timeout=60,
                          capture_output=True, text=True)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("flags,exit_code,word", [
    (["--listen", ""], 2, "--listen"),
    (["--listen", "127.0.0.1:1,"], 2, "--listen"),
    (["--listen", "127.0.0.1:65536"], 2, "65536"),
    (["--max-waiting", "0"], 2, "--max-waiting"),
    (["--chat-template", "nope"], 2, "nope"),
    (["--frobnicate"], 2, "--frobnicate"),
    (["operand"], 2, "operand"),
    (["--listen", "unix:/nonexistent-directory/gateway.sock"], 1, "/nonexistent-directory"),
])
def test_bad_command_line(flags, exit_code, word):
    code, text = gateway(*flags)
    assert code == exit_code, text
    assert word in text


def test_address_in_use(stack):
    code, text = gateway("--listen", stack.target)
    assert code == 1
    assert "gateway.sock" in text
