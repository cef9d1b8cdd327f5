"""Deliveries: what MLflow signs is believed, and nothing else is; what it says is understood strictly."""

import base64
import hashlib
import hmac
import json

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privacy_gate.service import Event, webhook
from privacy_gate.service.webhook import Malformed, Unauthorized, parse, verify

SECRET = "whsec-ü-not a real one"
NOW, TOLERANCE = 1_800_000_000.0, 300.0
BODY = json.dumps(
    {
        "entity": "model_version",
        "action": "created",
        "timestamp": "2026-11-21T21:04:58.569435+00:00",
        "data": {
            "name": "churn",
            "version": "3",
            "source": "models:/m-31ebdb1d829341ba989974fb015c6f5c",
            "run_id": None,
            "tags": {},
            "description": None,
        },
    }
).encode()


def signed(body=BODY, id="6f9619ff-8b86-d011-b42d-00c04fc964ff", at=NOW, secret=SECRET):
    stamp = str(int(at))
    mac = hmac.new(secret.encode(), f"{id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return [
        (b"X-MLflow-Delivery-Id", id.encode()),
        (b"X-MLflow-Timestamp", stamp.encode()),
        (b"X-MLflow-Signature", b"v1," + base64.b64encode(mac)),
    ]


def changed(headers, name, value):
    return [(n, value if n.lower() == name.encode() else v) for n, v in headers]


def believed(headers, body=BODY, now=NOW, secret=SECRET):
    return verify(headers, body, secret, now, TOLERANCE)


def test_what_is_signed_and_fresh_is_believed():
    assert believed(signed()) == "6f9619ff-8b86-d011-b42d-00c04fc964ff"
    assert believed([(n.lower(), v) for n, v in signed()]) == "6f9619ff-8b86-d011-b42d-00c04fc964ff"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcü😀", max_size=4), inner, max_size=3),
        max_leaves=8,
    ),
    at=st.integers(0, 10**12 - 1),
)
def test_what_mlflow_signs_is_believed(secret, value, at):
    from mlflow.webhooks.delivery import _generate_hmac_signature

    body = json.dumps({"data": value})
    theirs = _generate_hmac_signature(secret, "0c5a-1", str(at), body)
    headers = [
        (b"x-mlflow-delivery-id", b"0c5a-1"),
        (b"x-mlflow-timestamp", str(at).encode()),
        (b"x-mlflow-signature", theirs.encode()),
    ]
    assert verify(headers, body.encode(), secret, float(at), TOLERANCE) == "0c5a-1"
    assert webhook.signature("0c5a-1", str(at), body.encode(), secret) == theirs.encode()


def test_the_names_of_headers_are_those_of_mlflow():
    from mlflow.webhooks import constants

    assert constants.WEBHOOK_SIGNATURE_HEADER.lower() == webhook.SIGNATURE
    assert constants.WEBHOOK_TIMESTAMP_HEADER.lower() == webhook.TIMESTAMP
    assert constants.WEBHOOK_DELIVERY_ID_HEADER.lower() == webhook.DELIVERY_ID


@settings(max_examples=200, deadline=None, derandomize=True)
@given(part=st.sampled_from(["body", "id", "timestamp", "signature"]), bit=st.integers(0, 10_000))
def test_no_flipped_bit_is_believed(part, bit):
    headers, body = signed(), BODY
    names = {"id": webhook.DELIVERY_ID, "timestamp": webhook.TIMESTAMP, "signature": webhook.SIGNATURE}

    def flipped(value):
        at = bit % (8 * len(value))
        return bytes(b ^ (1 << at % 8 if i == at // 8 else 0) for i, b in enumerate(value))

    if part == "body":
        body = flipped(body)
    else:
        right = next(v for n, v in headers if n.lower() == names[part].encode())
        headers = changed(headers, names[part], flipped(right))
    with pytest.raises(Unauthorized):
        believed(headers, body)


@pytest.mark.parametrize("age", [-300.0, -299.5, 0.0, 299.5, 300.0])
def test_within_the_tolerance_it_is_fresh(age):
    assert believed(signed(), now=NOW + age)


@pytest.mark.parametrize("age", [-1e9, -301.0, -300.5, 300.5, 301.0, 1e9, float("nan"), float("inf")])
def test_outside_of_the_tolerance_it_is_stale_either_way(age):
    with pytest.raises(Unauthorized, match="timestamp"):
        believed(signed(), now=NOW + age)


def test_another_secret_and_none_are_not_believed():
    with pytest.raises(Unauthorized):
        believed(signed(secret="another"))
    with pytest.raises(Unauthorized):
        verify(signed(secret=""), BODY, "", NOW, TOLERANCE)


@pytest.mark.parametrize("name", [webhook.SIGNATURE, webhook.TIMESTAMP, webhook.DELIVERY_ID])
def test_each_header_is_there_exactly_once(name):
    without = [(n, v) for n, v in signed() if n.lower() != name.encode()]
    with pytest.raises(Unauthorized, match="given 0 times"):
        believed(without)
    right = next(v for n, v in signed() if n.lower() == name.encode())
    for second in (right, b"", b"x"):
        for both in ([*signed(), (name.upper().encode(), second)], [(name.encode(), second), *signed()]):
            with pytest.raises(Unauthorized, match="given 2 times"):
                believed(both)


@pytest.mark.parametrize(
    "id", ["", " ", "a b", "a.1800000000", "a/../b", "ä", "a\x00", "a\n", "x" * 101, "%41", "a,b", "'or 1=1"]
)
def test_an_id_is_made_of_few_characters(id):
    with pytest.raises(Unauthorized, match="id"):
        believed(signed(id=id))


@pytest.mark.parametrize(
    "stamp",
    [
        b"",
        b"-1800000000",
        b"+1800000000",
        b"1800000000.0",
        b" 1800000000",
        b"1800000000 ",
        b"1_800_000_000",
        b"0x1",
        b"1" * 5000,
        b"1800000000\n",
        "١٨٠٠٠٠٠٠٠٠".encode(),
        "１８００００００００".encode(),
    ],
)
def test_a_timestamp_is_made_of_ascii_digits(stamp):
    id = b"a"
    mac = hmac.new(SECRET.encode(), id + b"." + stamp + b"." + BODY, hashlib.sha256).digest()
    headers = [
        (b"x-mlflow-delivery-id", id),
        (b"x-mlflow-timestamp", stamp),
        (b"x-mlflow-signature", b"v1," + base64.b64encode(mac)),
    ]
    with pytest.raises(Unauthorized, match="timestamp"):
        believed(headers)


def test_one_of_several_signatures_is_enough():
    right = next(v for n, v in signed() if n == b"X-MLflow-Signature")
    other = next(v for n, v in signed(secret="the next one") if n == b"X-MLflow-Signature")
    for several in (right + b" " + other, other + b" " + right, b"v2,abc " + right, b" ".join([other, right, other])):
        assert believed(changed(signed(), webhook.SIGNATURE, several))
    with pytest.raises(Unauthorized):
        believed(changed(signed(), webhook.SIGNATURE, other + b" " + other))
    with pytest.raises(Unauthorized, match="too long"):
        believed(changed(signed(), webhook.SIGNATURE, b" ".join([right] * 22)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda right: b"",
        lambda right: b" ",
        lambda right: b"v1,",
        lambda right: right.removeprefix(b"v1,"),
        lambda right: b"v2," + right.removeprefix(b"v1,"),
        lambda right: b"V1," + right.removeprefix(b"v1,"),
        lambda right: right + b"=",
        lambda right: right[:-1],
        lambda right: right + b",v1",
        lambda right: right.replace(b",", b" "),
        lambda right: right.replace(b" ", b"") + b"\t" + b"x",
        lambda right: b"v1," + base64.b64decode(right[3:]).hex().encode(),
        lambda right: "v1,ü".encode(),
    ],
)
def test_a_signature_in_another_form_is_none(wrong):
    right = next(v for n, v in signed() if n == b"X-MLflow-Signature")
    with pytest.raises(Unauthorized):
        believed(changed(signed(), webhook.SIGNATURE, wrong(right)))


def test_no_part_of_what_is_signed_can_be_passed_off_as_another():
    """It is "a" . "1800000000" . body: where the dots are cannot be read in another way."""
    inner = b"1800000000." + BODY
    right = next(v for n, v in signed(body=inner, id="a") if n == b"X-MLflow-Signature")
    moved = [
        (b"x-mlflow-delivery-id", b"a.1800000000"),
        (b"x-mlflow-timestamp", b"1800000000"),
        (b"x-mlflow-signature", right),
    ]
    with pytest.raises(Unauthorized):
        believed(moved, BODY)


def test_what_is_said_of_a_refusal_tells_nothing_of_the_secret_or_the_signature():
    right = next(v for n, v in signed() if n == b"X-MLflow-Signature").decode()
    with pytest.raises(Unauthorized) as refused:
        believed(changed(signed(), webhook.SIGNATURE, b"v1," + b"A" * 43 + b"="))
    assert right not in str(refused.value)
    assert SECRET not in str(refused.value)


# --- what it says -----------------------------------------------------------------------------------------------------


def said(entity="model_version", action="created", **data):
    return json.dumps({"entity": entity, "action": action, "timestamp": "x", "data": data}).encode()


def test_what_mlflow_says_is_understood():
    assert parse(BODY) == Event("model_version", "created", "churn", "3")
    assert parse(said("registered_model", name="churn")) == Event("registered_model", "created", "churn")
    alias = Event("model_version_alias", "created", "churn", "2", alias="candidate")
    assert parse(said("model_version_alias", name="churn", alias="candidate", version="2")) == alias
    gone = Event("model_version_alias", "deleted", "churn", None, alias="candidate")
    assert parse(said("model_version_alias", "deleted", name="churn", alias="candidate")) == gone
    tag = Event("model_version_tag", "set", "churn", "1", key="gate.status")
    assert parse(said("model_version_tag", "set", name="churn", version="1", key="gate.status", value="x")) == tag


def test_every_example_of_mlflow_is_understood_and_known_as_a_test():
    from mlflow.entities.webhook import WebhookEvent
    from mlflow.webhooks.types import EVENT_TO_PAYLOAD_CLASS, get_example_payload_for_event

    about_versions = 0
    for entity, action in EVENT_TO_PAYLOAD_CLASS:
        data = get_example_payload_for_event(WebhookEvent(entity, action))
        body = said(entity.value, action.value, **data)
        event = parse(body)
        about_versions += event is not None
        assert (event is None) == (not webhook.is_test(webhook.document(body))), (entity, action)
        if event is not None:
            assert event.name == "example_model"
            assert (event.version is None) == ("version" not in data)
    assert about_versions == 6


def test_a_model_that_is_called_like_the_example_is_no_test():
    real = json.loads(said(name="example_model", version="1", source="models:/m-1", run_id=None, tags={}))
    assert not webhook.is_test(real)
    assert not webhook.is_test({})
    assert not webhook.is_test({"entity": [], "action": {}})


@pytest.mark.parametrize(
    "entity", ["prompt", "prompt_version", "budget_policy", "something_new", "MODEL_VERSION", "😀"]
)
def test_what_is_about_no_version_is_none(entity):
    assert parse(said(entity, "created", name="a\x00b")) is None
    assert parse(said("model_version", "deleted", name="a")) is None


@pytest.mark.parametrize(
    "name", ["<script>", "../../etc", "a b", "ü/😀", "'; DROP TABLE jobs; --", "\u202ename", "x" * 1000]
)
def test_a_name_stays_as_it_is(name):
    event = parse(said(name=name, version="1"))
    assert event is not None
    assert event.name == name


@pytest.mark.parametrize(
    "name", ["", "x" * 1001, "a\x00", "a\nb", "\x1b[31m", "\x7f", "\x85", "\ud800", None, 1, True, [], {}, ["a"]]
)
def test_a_name_is_a_short_text_without_control_characters(name):
    with pytest.raises(Malformed, match="name"):
        parse(said(name=name, version="1"))
    for field in ("alias", "key"):
        entity = f"model_version_{'alias' if field == 'alias' else 'tag'}"
        action = "created" if field == "alias" else "set"
        with pytest.raises(Malformed, match=field):
            parse(said(entity, action, name="a", version="1", **{field: name}))


@pytest.mark.parametrize("version", ["", "latest", "-1", "1.0", " 1", "1\n", "²", "١", "1" * 19, 1, 1.0, True, [], {}])
def test_a_version_is_a_number_in_a_text(version):
    with pytest.raises(Malformed, match="version"):
        parse(said(name="a", version=version))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"a"',
        b"1",
        b"{",
        b"{}",
        b"}{",
        BODY + b"x",
        BODY + BODY,
        BODY[:-1],
        b"\xef\xbb\xbf" + BODY,
        BODY.decode().encode("utf-16"),
        b'{"entity":"\xff","action":"created","data":{"name":"a"}}',
        b'{"entity":"model_version","action":"created"}',
        b'{"entity":"model_version","action":"created","data":null}',
        b'{"entity":"model_version","action":"created","data":[]}',
        b'{"entity":"model_version","action":"created","data":{}}',
        b'{"entity":null,"action":"created","data":{"name":"a"}}',
        b'{"entity":"model_version","action":["created"],"data":{"name":"a"}}',
        b'{"entity":"model_version","action":"created","data":{"name":"a","version":"1"},"x":NaN}',
        b'{"entity":"model_version","action":"created","data":{"name":"a","version":"1"},"x":-Infinity}',
        b'{"entity":"model_version","action":"created","data":{"name":"a","version":"1"},"x":' + b"9" * 5000 + b"}",
        b"entity=model_version&action=created",
        b"\x00" * 100,
    ],
)
def test_malformed(body):
    with pytest.raises(Malformed):
        parse(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"entity":"model_version","entity":"prompt","action":"created","data":{"name":"a","version":"1"}}',
        b'{"entity":"model_version","action":"created","data":{"name":"a","version":"1","name":"b"}}',
        b'{"entity":"model_version","action":"created","data":{"name":"a","version":"1"},"x":[{"y":1,"\\u0079":1}]}',
    ],
)
def test_a_key_given_twice_is_malformed_at_any_level(body):
    with pytest.raises(Malformed, match="twice"):
        parse(body)


def depth(value) -> int:
    """The obvious way to count levels."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


brackets = st.recursive(
    st.just(0) | st.text('[]{}"\\,a', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\', max_size=3), inner, max_size=2),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=brackets, more=st.integers(0, 20), squeeze=st.booleans())
@example(value="[" * 50, more=0, squeeze=True)
@example(value=["\\", "[", '\\"', "{"], more=webhook.DEPTH - 2, squeeze=True)
def test_levels_are_counted_as_a_parser_would(value, more, squeeze):
    for _ in range(more):
        value = [value]
    body = json.dumps({"x": value}, separators=(",", ":") if squeeze else None).encode()
    if depth({"x": value}) <= webhook.DEPTH:
        assert webhook.document(body) == {"x": value}
    else:
        with pytest.raises(Malformed, match="deep"):
            webhook.document(body)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (1 << 20),
        b'{"a":' * (1 << 18),
        b'"' + b'\\"' * (1 << 19),
        b'{"a":"' + b"\\" * (1 << 20),
        b'[]"' * 300_000,
    ],
)
def test_a_bomb_is_malformed_before_it_is_parsed(body):
    with pytest.raises(Malformed):
        parse(body)


# --- the schema that is published says the same -----------------------------------------------------------------------

texts = st.sampled_from(["a", "", "x" * 1000, "x" * 1001, "a\n", "\x7f", "ü", "model_version"]) | st.text(max_size=3)
values = texts | st.none() | st.integers() | st.lists(texts, max_size=1)
entities = st.sampled_from(["model_version", "model_version_tag", "model_version_alias", "registered_model", "prompt"])
actions = st.sampled_from(["created", "set", "deleted", "exceeded"])
numbers = st.sampled_from(["1", "12", "0x", "1\n", "²", "1" * 19, None])


def mostly(usual):
    return st.integers(0, 5).flatmap(lambda i: usual if i else values)


data = st.fixed_dictionaries({}, optional={"name": values, "alias": values, "key": values, "version": mostly(numbers)})
full = st.fixed_dictionaries({"name": texts, "alias": texts, "key": texts, "version": mostly(numbers)})


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    entity=mostly(entities),
    action=mostly(actions),
    data=mostly(full | data),
    missing=st.sampled_from([None] * 9 + ["entity", "action", "data"]),
)
def test_the_published_schema_and_the_parser_agree(entity, action, data, missing):
    from privacy_gate.service.receiver import _DELIVERY

    schema = _DELIVERY["requestBody"]["content"]["application/json"]["schema"]
    value = {"entity": entity, "action": action, "data": data}
    value.pop(missing, None)
    body = json.dumps(value).encode()
    try:
        parse(body)
        understood = True
    except Malformed:
        understood = False
    # In Python's regular expressions $ also stands before a last newline; in JSON Schema's it does not.
    valid = jsonschema.Draft202012Validator(schema, format_checker=None).is_valid(value)
    if not any("\n" in str(part) for part in (entity, action, data)):
        assert valid == understood
