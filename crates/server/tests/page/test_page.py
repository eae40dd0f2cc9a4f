"""The chat page in a real browser, against a running server.

NXD_URL names the server, NXD_CHROMIUM the browser (`/usr/bin/chromium` where it is not set):

    pip install -r requirements.txt
    NXD_URL=http://127.0.0.1:8000/ pytest test_page.py

What the model says comes from the server, except where a test needs words or failures that no model can be made to give.
"""

import json
import os
import re
from urllib.parse import urljoin

import pytest
from playwright.sync_api import expect, sync_playwright

URL = os.environ["NXD_URL"]
CHROMIUM = os.environ.get("NXD_CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
# An unoptimised server on a busy machine still passes.
DEADLINE_MS = 90_000
DESKTOP = {"width": 1280, "height": 800}
CHAT = "**/v1/chat/completions"
expect.set_options(timeout=DEADLINE_MS)


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, headless=True)
        yield browser
        browser.close()


@pytest.fixture
def context(browser):
    context = browser.new_context(viewport=DESKTOP)
    context.set_default_timeout(DEADLINE_MS)
    yield context
    context.close()


@pytest.fixture
def page(context):
    """An empty chat with a server that is ready; any error of the script fails the test."""
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.goto(URL)
    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#model option")).not_to_have_count(0)
    yield page
    assert errors == []


def requests_with(page, **more):
    """Adds fields to what the page asks for, and returns the list of all bodies as the page sent them."""
    bodies = []

    def change(route):
        bodies.append(route.request.post_data_json)
        route.continue_(post_data=json.dumps(route.request.post_data_json | more))

    page.route(CHAT, change)
    return bodies


def model_says(page, *texts, end="data: [DONE]\n\n"):
    """Lets the page hear `texts`, in place of the server."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    body = ": ping\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=body))


def ask(page, question):
    page.get_by_label("Message", exact=True).fill(question)
    page.keyboard.press("Enter")


def settings(page, **fields):
    if page.locator("#panel").is_hidden():
        page.get_by_role("button", name="Settings").click()
    for label, value in fields.items():
        page.get_by_label(label, exact=True).fill(str(value))


def answered(page):
    expect(page.locator(".turn")).not_to_have_count(0)
    expect(page.locator(".turn.asking")).to_have_count(0)
    return page.locator(".answer").last.inner_text()


def test_it_loads_under_its_policy_without_a_complaint(context):
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    response = page.goto(URL)
    assert "default-src 'none'" in response.headers["content-security-policy"]
    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#kv-text")).to_contain_text("%")
    model = page.request.get(urljoin(URL, "v1/models")).json()["data"][0]["id"]
    expect(page.locator("#model")).to_have_value(model)
    assert said == []
    assert [url for url in asked if not url.startswith((URL, "data:"))] == []


def test_script_that_is_not_the_pages_does_not_run(page):
    page.evaluate("""() => {
        const refused = [];
        const attempt = act => { try { act(); } catch (error) { refused.push(error.name); } };
        const button = document.body.appendChild(document.createElement('button'));
        attempt(() => button.setAttribute('onclick', 'window.ran = 1'));
        attempt(() => document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.ran = 2">'));
        attempt(() => document.body.appendChild(document.createElement('script')).append('window.ran = 3'));
        attempt(() => { document.body.innerHTML = '<p>replaced</p>'; });
        button.click();
    }""")
    assert page.evaluate("window.ran") is None
    expect(page.locator("#composer")).to_be_visible()


def test_an_answer_streams_in_and_its_speed_is_shown(page):
    requests_with(page, ignore_eos=True)
    page.evaluate("""() => {
        window.lengths = new Set();
        new MutationObserver(() => window.lengths.add(document.querySelector('.answer')?.textContent.length))
            .observe(document.getElementById('turns'), { subtree: true, childList: true });
    }""")
    settings(page, max_tokens=24)
    ask(page, "Count from one to twenty.")
    assert answered(page).strip()
    assert page.evaluate("window.lengths.size") > 3
    facts = r"^24 tokens · \d+\.\d tokens/s · first after \d+\.\d\d s · cut off: no tokens left$"
    expect(page.locator(".facts span")).to_have_text(re.compile(facts))


def test_stop_ends_the_answer_and_frees_the_server(page):
    requests_with(page, ignore_eos=True, max_tokens=1500)
    ask(page, "Tell me a long story.")
    expect(page.locator(".answer")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".facts span")).to_contain_text("stopped")
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#running")).to_have_text("0 running")
    expect(page.locator(".problem")).to_be_hidden()


def test_regenerate_asks_again_and_with_a_seed_gets_the_same_words(page):
    bodies = requests_with(page, max_tokens=12)
    settings(page, seed=7, temperature=0.9)
    ask(page, "Name a colour.")
    first = answered(page)
    page.get_by_role("button", name="Regenerate").click()
    # The numbers are empty from the click until the new answer begins.
    expect(page.locator(".turn.asking")).to_have_count(0)
    expect(page.locator(".facts span")).to_contain_text("tokens/s")
    assert answered(page) == first
    assert len(bodies) == 2 and bodies[0] == bodies[1]
    expect(page.locator(".turn")).to_have_count(1)


def test_the_system_prompt_and_the_sampling_fields_are_sent(page):
    bodies = requests_with(page, max_tokens=4)
    ask(page, "one")
    answered(page)
    first = page.evaluate("JSON.parse(sessionStorage['nxd.turns'])[0].answer")
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 9, "seed": 3}
    given["repetition_penalty"] = 1.1
    settings(page, **{"System prompt": "You are brief."}, **given)
    ask(page, "two")
    expect(page.locator(".turn")).to_have_count(2)
    answered(page)
    model = page.locator("#model").input_value()
    streamed = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    assert bodies[0] == {"messages": [{"role": "user", "content": "one"}]} | streamed
    earlier = [{"role": "user", "content": "one"}, {"role": "assistant", "content": first}]
    said = [{"role": "system", "content": "You are brief."}, *earlier, {"role": "user", "content": "two"}]
    assert bodies[1] == {"messages": said} | given | streamed


def test_a_sampling_field_that_cannot_be_meant_is_not_sent(page):
    bodies = requests_with(page)
    settings(page, top_p=3)
    page.get_by_role("button", name="Close").click()
    ask(page, "hello")
    expect(page.get_by_label("top_p")).to_be_focused()
    assert bodies == []
    expect(page.get_by_label("Message", exact=True)).to_have_value("hello")
    page.get_by_role("button", name="Reset to defaults").click()
    expect(page.get_by_label("top_p")).to_have_value("")


def test_the_gauge_shows_the_cache_and_the_queue(page):
    meter = page.get_by_role("meter", name="KV cache in use")
    assert 0 <= int(meter.get_attribute("aria-valuenow")) <= 100
    text = (
        'vllm:kv_cache_usage_perc{engine="0",model_name="a b"} 0.5\n'
        'vllm:num_requests_running{engine="0"} 2\nvllm:num_requests_running{engine="1"} 1\n'
        'vllm:num_requests_waiting{engine="0"} 4\nvllm:num_requests_waiting_by_reason{engine="0",reason="x"} 9\n'
    )
    page.route("**/metrics", lambda route: route.fulfill(content_type="text/plain", body=text))
    expect(meter).to_have_attribute("aria-valuenow", "50")
    expect(page.locator("#kv-text")).to_have_text("50 %")
    expect(page.locator("#running")).to_have_text("3 running")
    expect(page.locator("#waiting")).to_have_text("4 waiting")


@pytest.mark.parametrize("width, height", [(390, 844), (360, 640)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page, width, height, scheme):
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    model_says(page, "A long word: " + "x" * 300 + "\n\n```c\n" + "y" * 300 + "\n```\n")
    ask(page, "z" * 300)
    answered(page)
    fits = """() => [document.documentElement, document.getElementById('log'), document.querySelector('header')]
        .every(part => part.scrollWidth <= part.clientWidth)"""
    assert page.evaluate(fits)
    expect(page.get_by_role("button", name="Regenerate")).to_be_in_viewport()
    for control in ["New chat", "Settings", "Send"]:
        expect(page.get_by_role("button", name=control, exact=True)).to_be_in_viewport(ratio=1)
    settings(page)
    assert page.evaluate(fits)
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#panel")).to_be_hidden()


def test_a_key_is_asked_for_sent_and_kept_for_the_tab(context):
    page = context.new_page()

    def guard(route):
        if route.request.headers.get("authorization") == "Bearer sesame":
            return route.continue_()
        return route.fulfill(status=401, json={"error": {"message": "this server needs a key", "code": "invalid_api_key"}})

    page.route("**/v1/**", guard)
    page.route("**/metrics", guard)
    page.goto(URL)
    dialog = page.get_by_role("dialog", name="API key")
    expect(dialog).to_contain_text("asks for an API key")
    dialog.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("does not accept")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    settings(page, max_tokens=4)
    ask(page, "hello")
    expect(dialog).to_be_visible()
    dialog.get_by_label("API key").fill("sesame")
    page.keyboard.press("Enter")
    # The message that was refused is sent again, now with the key.
    expect(page.locator(".problem")).to_be_hidden()
    answered(page)
    expect(page.locator("#kv-text")).to_contain_text("%")
    page.reload()
    expect(page.locator("#model option")).to_have_count(1)
    expect(dialog).to_be_hidden()


def test_hostile_text_is_shown_as_text(page):
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    table = f"| {hostile} |\n|--|\n| {hostile} |"
    code = f'```html"onload=alert(3)\n{hostile}\n```'
    model_says(page, "\n\n".join([hostile, f"- {hostile}", f"# {hostile}", f"`{hostile}` **{hostile}**", table, code]))
    ask(page, hostile)
    answered(page)
    expect(page.locator(".question")).to_have_text(hostile)
    for shown in ["p >> nth=0", "li", "h3", "p code", "strong", "th", "td", "pre code"]:
        expect(page.locator(f".answer {shown}")).to_contain_text(hostile)
    assert page.locator("#turns img, #turns script, #turns [onerror], #turns [onload]").count() == 0


def test_markdown_becomes_elements(page):
    lists = "## Title\n\n1. **one** and `x*y*z`\n   - inner *em*\n2. ***both***\n"
    code = ["\n```py", "thon\na  = 1\n\nb\n``", "`\n"]
    table = "| a | b |\n|---|:-:|\n| 1 | **2** |\n"
    model_says(page, "<think>\nhm\n</think>\n\n", lists, *code, table, "> quoted\n\n2 * 3 * 4\n")
    ask(page, "x")
    answered(page)
    answer = page.locator(".answer")
    expect(answer.locator("h4")).to_have_text("Title")
    expect(answer.locator("> ol > li")).to_have_count(2)
    expect(answer.locator("ol > li > ul > li em")).to_have_text("em")
    expect(answer.locator("li > strong")).to_have_text(["one", "both"])
    expect(answer.locator("li strong > em")).to_have_text("both")
    expect(answer.locator("li > code")).to_have_text("x*y*z")
    expect(answer.locator("figcaption")).to_contain_text("python")
    assert answer.locator("pre").inner_text() == "a  = 1\n\nb"
    expect(answer.locator("th")).to_have_text(["a", "b"])
    expect(answer.locator("td > strong")).to_have_text("2")
    expect(answer.locator("blockquote")).to_have_text("quoted")
    expect(answer.locator("> p")).to_have_text("2 * 3 * 4")
    expect(page.locator(".thought summary")).to_have_text("Thought")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer.get_by_role("button", name="Copy").click()
    expect(answer.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "a  = 1\n\nb"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("*a " * 50_000, id="stars"),
        pytest.param("`a``" * 40_000, id="ticks"),
        pytest.param("**a *b " * 30_000, id="mixed"),
        pytest.param("".join(" " * n + "- x\n" for n in range(300)), id="nested"),
        pytest.param("> " * 50_000, id="quotes"),
        pytest.param("|" * 50_000 + "\n" + "|" * 50_000, id="cells"),
    ],
)
def test_no_answer_is_too_odd_to_be_shown(page, text):
    model_says(page, text)
    ask(page, "x")
    assert len(answered(page)) > 500
    expect(page.locator(".problem")).to_be_hidden()


def test_a_refusal_stands_in_the_conversation_and_can_be_retried(page):
    refusal = {"error": {"message": "the queue is full", "type": "rate_limit_error", "code": "queue_full"}}
    page.route(CHAT, lambda route: route.fulfill(status=429, json=refusal, headers={"Retry-After": "7"}))
    ask(page, "hello")
    expect(page.get_by_role("alert")).to_contain_text("The queue is full. Try again in 7 s.")
    page.unroute(CHAT)
    bodies = requests_with(page, max_tokens=4)
    page.get_by_role("button", name="Retry").click()
    answered(page)
    expect(page.locator(".problem")).to_be_hidden()
    assert bodies[0]["messages"] == [{"role": "user", "content": "hello"}]


def test_a_question_that_got_no_answer_is_not_sent_again(page):
    page.route(CHAT, lambda route: route.abort())
    ask(page, "lost")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute(CHAT)
    bodies = requests_with(page, max_tokens=4)
    ask(page, "found")
    expect(page.locator(".turn")).to_have_count(2)
    answered(page)
    assert bodies[0]["messages"] == [{"role": "user", "content": "found"}]


@pytest.mark.parametrize(
    "end, said",
    [
        ('data: {"error": {"message": "the logits became NaN"}}\n\ndata: [DONE]\n\n', "The logits became NaN."),
        ("", "The connection ended before the answer did."),
        ("data: {broken\n\n", "The answer could not be read"),
    ],
)
def test_a_failure_amid_the_answer_keeps_what_came_and_says_what_happened(page, end, said):
    model_says(page, "half an ans", end=end)
    ask(page, "hello")
    expect(page.get_by_role("alert")).to_contain_text(said)
    expect(page.locator(".answer")).to_have_text("half an ans")


@pytest.mark.parametrize(
    "code, label, said",
    [
        ("loading", "loading", "the model is loading. You can write already."),
        ("draining", "shutting down", "it takes no new messages"),
        ("engine_dead", "failed", "why it is so"),
    ],
)
def test_the_page_says_how_the_server_is_and_when_it_is_well_again(page, code, label, said):
    message = "the model is loading" if code == "loading" else "why it is so"
    page.route("**/ready", lambda route: route.fulfill(status=503, json={"error": {"message": message, "code": code}}))
    expect(page.locator("#state")).to_have_text(label)
    expect(page.locator("#notice")).to_contain_text(re.compile(said, re.IGNORECASE))
    if code == "loading":
        ask(page, "early")
        expect(page.locator("#send")).to_be_disabled()
        expect(page.locator(".turn")).to_have_count(0)
    page.unroute("**/ready")
    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#send")).to_be_enabled()


def test_a_server_that_is_gone_is_said_to_be_gone(page):
    page.route("**/ready", lambda route: route.abort())
    expect(page.locator("#notice")).to_contain_text("cannot be reached")


def test_the_conversation_outlives_a_reload_and_a_new_chat_ends_it(page):
    model_says(page, "kept **words**")
    settings(page, **{"System prompt": "Be kind."})
    ask(page, "remember")
    answered(page)
    page.reload()
    expect(page.locator(".question")).to_have_text("remember")
    expect(page.locator(".answer strong")).to_have_text("words")
    expect(page.locator("#system")).to_have_value("Be kind.")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.reload()
    expect(page.locator("#welcome")).to_be_visible()


def test_a_new_chat_during_an_answer_is_not_disturbed_by_it(page):
    requests_with(page, ignore_eos=True, max_tokens=1500)
    ask(page, "Tell me a long story.")
    expect(page.locator(".answer")).not_to_be_empty()
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#send")).to_be_visible()
    page.unroute(CHAT)
    model_says(page, "fresh")
    ask(page, "hello")
    expect(page.locator(".answer")).to_have_text("fresh")
    expect(page.locator(".turn")).to_have_count(1)


def test_the_keyboard_does_it_all(page):
    requests_with(page, ignore_eos=True, max_tokens=1500)
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    expect(page.locator(".question")).to_have_text("first line\nsecond line")
    expect(page.locator(".answer")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator(".facts span")).to_contain_text("stopped")


def test_who_reads_above_is_not_pulled_down(page):
    model_says(page, "\n\n".join(f"paragraph {n}" for n in range(60)))
    ask(page, "hello")
    expect(page.get_by_text("paragraph 59")).to_be_in_viewport()
    page.locator("#log").evaluate("log => { log.scrollTop = 0; }")
    latest = page.get_by_role("button", name="Latest")
    expect(latest).to_be_visible()
    page.evaluate("turns[0].answer += '\\n\\nmore'; paint(turns[0]); follow();")
    assert page.locator("#log").evaluate("log => log.scrollTop") == 0
    latest.click()
    expect(page.get_by_text("more", exact=True)).to_be_in_viewport()
    expect(latest).to_be_hidden()


def test_what_is_heard_and_touched_has_names(page):
    model_says(page, "words")
    ask(page, "hello")
    answered(page)
    settings(page)
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, textarea, select')]
        .filter(one => !one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim())
        .map(one => one.outerHTML)""")
    assert unnamed == []
    expect(page.get_by_role("log", name="Conversation")).to_be_visible()
    expect(page.locator(".turn")).to_have_attribute("aria-busy", "false")
