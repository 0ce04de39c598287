"""Allowed URLs, in TwiML too, and well-formed TwiML."""

import string
from dataclasses import replace
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.errors import InvalidArguments
from tests.guard.policy.cases import OPERATIONS, SHIPPED, TWIML, asked, changed, refusal, ruling


@pytest.mark.requirement("31")
@pytest.mark.parametrize(
    ("tool", "name"),
    [
        (operation.name, parameter.name)
        for operation in OPERATIONS.values()
        for parameter in operation.parameters.values()
        if "http" in str(parameter.schema.get("pattern"))
    ],
)
def test_every_url_argument_must_be_on_an_allowed_host(tool: str, name: str) -> None:
    policy = changed("urls", hosts=("*.example.com",))
    denied = refusal(policy, asked(tool, **{name: "https://example.org/x"}))
    assert denied.rule == "urls.hosts"
    assert f'{name} is a URL on "example.org"' in denied.message
    assert ruling(policy, asked(tool, **{name: "https://a.example.com/x"})) == ""


def test_all_url_arguments_of_the_operations_are_recognised() -> None:
    names = {"url", "fallback_url", "status_callback", "recording_status_callback"}
    for name in names | {"async_amd_status_callback"}:
        assert ruling(SHIPPED, asked(**{name: "http://example.com/"})) == "urls.https_only"


@pytest.mark.requirement("31")
@pytest.mark.parametrize(
    ("rules", "url", "rule"),
    [
        ({}, "https://example.com/voice?x=1#@y", ""),
        ({}, "https://example.com:8443/", ""),
        ({}, "https://xn--bcher-kva.example/", ""),
        ({}, "https://93.184.216.34/", ""),
        ({}, "https://[2606:4700:4700::1111]/", ""),
        ({}, "http://example.com/", "urls.https_only"),
        ({"https_only": False}, "http://example.com/", ""),
        ({"hosts": ("EXAMPLE.com",)}, "https://Example.COM./", ""),
        ({"hosts": ("*.example.com",)}, "https://a.b.example.com/", ""),
        ({"hosts": ("*.example.com",)}, "https://example.com/", "urls.hosts"),
        ({"hosts": ("*.example.com",)}, "https://evilexample.com/", "urls.hosts"),
        ({"hosts": ("*.example.com",)}, "https://evil.com/.example.com", "urls.hosts"),
        ({"hosts": ("*.example.com",)}, "https://evil.com?.example.com", "urls.hosts"),
        ({"hosts": ("*.example.com",)}, "https://evil.com#.example.com", "urls.hosts"),
        ({"hosts": ()}, "https://example.com/", "urls.hosts"),
    ],
)
def test_a_url_must_be_on_an_allowed_host(rules: dict[str, Any], url: str, rule: str) -> None:
    assert ruling(changed("urls", **rules), asked(url=url)) == rule


@pytest.mark.requirement("31")
@pytest.mark.parametrize(
    "authority",
    [
        *("user:pw@example.com", "user@example.com", "example.com@127.0.0.1", "@example.com"),
        *("example.com:0", "example.com%00.evil", "%6cocalhost"),
        *("localhost", "LOCALHOST.", "a.localhost:8080", "printer.local"),
        *("metadata", "metadata.google.internal", "kubernetes", "kubernetes.default.svc", "com"),
        *("x.lan", "X.LAN.", "x.local", "x.internal", "nas.home.arpa", "1.168.192.in-addr.arpa"),
        *("x.home", "x.corp", "x.intranet", "x.private", "x.localdomain", "x.cluster.local"),
        *("127.0.0.1", "127.0.0.1.", "127.1", "2130706433"),
        *(
            "0x7f000001",
            "0x7f.0.0.0x1",
            "0177.0.0.1",
            "017700000001",
            "0xA9FEA9FE",
            "169.254.43518",
        ),
        *("0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1"),  # noqa: S104  # nobody binds to it
        *("100.100.100.200", "169.254.169.254", "168.63.129.16", "192.0.0.192"),
        *("224.0.0.1", "255.255.255.255"),
        *("[::1]", "[::]", "[::127.0.0.1]", "[::ffff:10.0.0.1]", "[::ffff:127.0.0.1]"),
        *("[64:ff9b::a00:1]", "[64:ff9b::8.8.8.8]", "[64:ff9b:1::a00:1]", "[2002:a00:1::]"),
        *("[::ffff:8.8.8.8]", "[::ffff:0:8.8.8.8]", "[2001::1]", "[2001:db8::1]", "[3fff::1]"),
        *("evil.org[v1.example.com]", "[v1.example.com]", "[2606:4700::1111]evil.com"),
        *("[2606:4700::1111%25eth0]", "example.com..", "..example.com"),
        *("[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]"),
    ],
)
def test_dangerous_urls_are_refused_whatever_the_policy(authority: str) -> None:
    policy = changed("urls", https_only=False)
    try:
        arguments = asked(url=f"http://{authority}/x")
    except InvalidArguments:
        assert authority == "example.com:0"
    else:
        denied = refusal(policy, arguments)
        assert denied.rule == "urls.always"
        assert "pw" not in denied.message
    twiml = f"<Response><Play>http://{authority}/x</Play></Response>"
    strict = replace(policy, urls=replace(policy.urls, hosts=("*", "*")))
    assert ruling(strict, asked(twiml=twiml)) == "urls.always"


@pytest.mark.parametrize(
    "url", ["https://ex\u00e4mple.com/", "https:\\\\evil.com", "https:///x", "https://[::1/"]
)
def test_an_ambiguous_url_is_refused(url: str) -> None:
    policy = changed("urls", hosts=("*", "*"))
    twiml = f"<Response><Play>{url}</Play></Response>"
    assert ruling(policy, asked(twiml=twiml)) == "urls.always"


LABELS = st.text(string.ascii_lowercase, min_size=1, max_size=8)
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "com"]))


@given(HOSTS, st.booleans(), st.sampled_from(["", "/x", "?x=1", "#x", ":8443/x"]))
def test_a_pattern_for_subdomains_matches_them_and_nothing_else(
    host: str,
    below: bool,  # noqa: FBT001  # hypothesis passes it so
    rest: str,
) -> None:
    policy = changed("urls", hosts=("*.example.com",))
    url = f"https://{host}.example.com{rest}" if below else f"https://{host}{rest}"
    expected = "" if below or host.endswith(".example.com") else "urls.hosts"
    assert ruling(policy, asked(url=url)) == expected


@given(HOSTS)
def test_a_host_is_matched_as_a_whole_and_case_insensitively(host: str) -> None:
    policy = changed("urls", hosts=(host.upper(),))
    assert ruling(policy, asked(url=f"https://{host}/")) == ""
    for other in (f"x{host}", f"{host}.evil.com", f"evil.com.{host}"):
        assert ruling(policy, asked(url=f"https://{other}/")) == "urls.hosts"


@pytest.mark.requirement("34")
@pytest.mark.parametrize(
    "twiml",
    [
        "<Response/>",
        TWIML,
        f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- hi -->{TWIML}\n',
        '<?xml version="1.0" encoding="utf-8"?><Response/>',
        "<Response><Say>Fish &amp; <![CDATA[<chips>]]> &#xe4;</Say></Response>",
        "<Response><Play>https://anywhere.example/</Play></Response>",
    ],
)
def test_well_formed_twiml_is_allowed(twiml: str) -> None:
    assert ruling(SHIPPED, asked(twiml=twiml)) == ""


BILLION_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><Response><Say>&i;</Say></Response>"
)


@pytest.mark.requirement("34")
@pytest.mark.parametrize(
    ("twiml", "why"),
    [
        ("Hello", "syntax error: line 1, column 0"),
        (" ", "no element found"),
        ("<Response><Say>Hello</Response>", "mismatched tag"),
        ("<Response/><Response/>", "junk after document element"),
        ('<Response><Say a="1" a="2"/></Response>', "duplicate attribute"),
        ("<Response>\x00</Response>", ""),
        ("<response/>", "the root element is not Response"),
        ("<html><Response/></html>", "the root element is not Response"),
        ("<!DOCTYPE Response><Response/>", "it has a DOCTYPE"),
        ('<!DOCTYPE Response SYSTEM "file:///etc/passwd"><Response/>', "it has a DOCTYPE"),
        (
            '<!DOCTYPE R [<!ENTITY x SYSTEM "https://evil.com/">]><Response>&x;</Response>',
            "it has a DOCTYPE",
        ),
        (
            '<!DOCTYPE R [<!ENTITY % x SYSTEM "https://evil.com/"> %x;]><Response/>',
            "it has a DOCTYPE",
        ),
        (BILLION_LAUGHS, "it has a DOCTYPE"),
        ("<Response>&undefined;</Response>", "undefined entity"),
        ("<Response>\ud800</Response>", "surrogates not allowed"),
    ],
)
def test_twiml_that_is_malformed_or_declares_anything_is_refused(twiml: str, why: str) -> None:
    arguments = replace(asked(), values={**asked().values, "twiml": twiml})
    denied = refusal(SHIPPED, arguments)
    assert denied.rule == "twiml.well_formed"
    assert why in denied.message


@pytest.mark.requirement("34")
@pytest.mark.parametrize(
    ("twiml", "rule"),
    [
        ("<Response>" * 100_000, "twiml.well_formed"),
        ("<Response>" + "<Say>" * 30_000 + "</Say>" * 30_000 + "</Response>", ""),
        (BILLION_LAUGHS.replace("ha", "ha" * 100_000), "twiml.well_formed"),
        ("<Response " + " ".join(f'a{i}=""' for i in range(30_000)) + "/>", "twiml.unknown"),
        ("<Response><Play>" + "https:/" * 50_000 + "</Play></Response>", "urls.always"),
        ("<Response><Say>" + "https:" * 50_000 + "</Say></Response>", ""),
        ("<Response>" + " " * 100_000 + "</Response>", ""),
    ],
)
@pytest.mark.timeout(60)  # what is quadratic or worse in 350,000 characters would never end
def test_twiml_of_any_shape_is_checked_quickly(twiml: str, rule: str) -> None:
    arguments = replace(asked(), values={**asked().values, "twiml": twiml})
    assert ruling(changed("urls", hosts=("example.com",)), arguments) == rule


@given(st.text(max_size=300) | st.text("<>/&;! []\"'=Response?-", max_size=300))
def test_any_text_as_twiml_is_either_allowed_or_refused(twiml: str) -> None:
    arguments = replace(asked(), values={**asked().values, "twiml": twiml})
    assert ruling(SHIPPED, arguments) in ("", "twiml.well_formed", "twiml.unknown")


def test_the_policy_can_refuse_inline_twiml() -> None:
    policy = changed("twiml", inline=False)
    assert ruling(policy, asked(twiml=TWIML)) == "twiml.inline"
    assert ruling(policy, asked("update_call", twiml=TWIML)) == "twiml.inline"
    assert ruling(policy, asked(url="https://example.com/")) == ""


@pytest.mark.parametrize(
    ("inside", "refused"),
    [
        ("<Play>https://a.example.com/x.mp3</Play>", False),
        ("<Say>Visit https://a.example.com, or (https://b.example.com).</Say>", False),
        ("<Say>https: it's secure</Say>", False),
        ("<Say>either // or</Say>", False),
        ("<Redirect>/relative</Redirect>", True),
        ("<Say>a.example.com https://a.example.com https://evil.com</Say>", False),
        ("<Play>https://evil.com/x.mp3</Play>", True),
        ("<Play> HTTPS://evil.com/x.mp3 </Play>", True),
        ("<Play>https://e<!-- -->vil<![CDATA[.com]]>/</Play>", True),
        ("<Play>https:<Say/>//evil.com/</Play>", True),
        ("<Redirect>https://evil.com<!-- -->.a.example.com/</Redirect>", True),
        ("<Redirect>https://evil.com<?x?>.a.example.com/</Redirect>", True),
        ("<Redirect><!-- to -->https://a.example.com/<!-- it --></Redirect>", False),
        ("<Play><![CDATA[https://a]]>.example.com/x.mp3</Play>", True),
        ("<Play>\n<![CDATA[https://a.example.com/x.mp3]]>\n</Play>", False),
        ("<Play>https://a.example.com/&#120;.mp3</Play>", False),
        ("<Play>&#104;ttps://evil.com/</Play>", True),
        ("<Redirect>//evil.com/</Redirect>", True),
        ("<Redirect>https:/evil.com/</Redirect>", True),
        ('<Gather action="https://evil.com/"/>', True),
        ('<Connect><Stream url="wss://evil.com/"/></Connect>', True),
        ("<Play>https://a.example.com'@evil.com/</Play>", True),
        ("<Play>https:evil.com</Play>", True),
        ("<Play>https:///evil.com</Play>", True),
        ("<Play>ht&#9;tps://evil.com/</Play>", True),
        ("<Play>https://a.example.com/ https://evil.com/</Play>", True),
        ("<Play>https://a.example.com\n.evil.com/</Play>", True),
        ("<Play>evil.com/x.mp3</Play>", True),
        ("<Play>ftp://a.example.com/</Play>", True),
        ("<Play>file:///etc/passwd</Play>", True),
        ("<Play>data:audio/wav;base64,AAAA</Play>", True),
        ("<Play>wss://a.example.com/</Play>", True),
        ('<Connect><Stream url="https://a.example.com/"/></Connect>', True),
        ('<Connect><Stream url="wss://a.example.com/"/></Connect>', False),
        ('<Dial action="//evil.com">+15005550205</Dial>', True),
        ('<Dial><Number url="https://evil.com/">+15005550205</Number></Dial>', True),
        ('<Conference waitUrl="">Room</Conference>', False),
    ],
)
def test_a_url_in_twiml_must_be_on_an_allowed_host(inside: str, *, refused: bool) -> None:
    policy = changed("urls", hosts=("*.example.com",))
    rule = ruling(policy, asked(twiml=f"<Response>{inside}</Response>"))
    assert rule in (("urls.hosts", "urls.always", "twiml.unknown") if refused else ("",))


@given(HOSTS, st.sampled_from(["https", "http", "wss", "ws"]), st.sampled_from("\t\n '@\\"))
def test_a_url_in_twiml_is_parsed_exactly_as_the_argument(host: str, scheme: str, odd: str) -> None:
    policy = changed("urls", hosts=("allowed.example",), https_only=False)
    for url in (f"{scheme}://{host}/", f"{scheme}:{host}/", f"https://allowed.example{odd}{host}"):
        for inside in (f"<Play>{escape(url)}</Play>", f"<Gather action={quoteattr(url)}/>"):
            twiml = f"<Response>{inside}</Response>"
            assert ruling(policy, asked(twiml=twiml)) in ("urls.hosts", "urls.always")
