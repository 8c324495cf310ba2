"""The page at `/`, in a real Chromium without a screen, against the server of the embedded model.

What a server can hardly be made to say, such as Markdown of every kind, the browser is told in its place (`answers`).
"""

import json
import os
import pathlib
import re

import pytest
from playwright.sync_api import expect, sync_playwright

QUESTION = 'Write a haiku about rain that includes the word "lantern"'
API = "**/v1/chat/completions"

MARKDOWN = """\
# Heading

**bold**, *italic*, ***both***, ~~gone~~, `code <b>`, snake_case_name, 2 * 3 * 4
second line

- one
  - deep
- [x] done

3. third

| a | b |
|:--|--:|
| `x\\|y` | 2 |

> quoted

```rust
fn main() { println!("<b>"); }
```

[link](https://example.org/a_(b)) https://example.org/c. [bad](javascript:alert(1)) ![image](https://example.org/i.png)

<script>window.hacked = true</script> <img src=x onerror="window.hacked = true">
"""


@pytest.fixture(scope="session")
def browser(request):
    # On two busy cores an answer takes its time.
    expect.set_options(timeout=120_000)
    with sync_playwright() as playwright:
        program = request.config.getoption("--chromium")
        # Chromium's own sandbox cannot be had as root, as which containers run.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, haiku):
    """Opens the page. Whatever a test does, it breaks no policy, throws nothing and asks no other host."""
    contexts, wrong = [], []

    def open_page(**options):
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
        context.set_default_timeout(120_000)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(haiku.url) else None)
        page.goto(haiku.url)
        expect(page.locator("#model")).to_have_text(haiku.model)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong, wrong


@pytest.fixture
def shot(request):
    folder = request.config.getoption("--screenshots")

    def shot(page, name):
        if folder:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(pathlib.Path(folder) / f"{name}.png"))

    return shot


def answers(page, *texts):
    """The browser says `texts` as the server's next answers."""
    texts = list(texts)

    def fulfill(route):
        parts = [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in re.findall(r".{1,7}", texts.pop(0), re.DOTALL)]
        parts.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        body = "".join(f"data: {json.dumps(part)}\n\n" for part in parts)
        route.fulfill(content_type="text/event-stream", body=body + "data: [DONE]\n\n")

    page.route(API, fulfill)


def endless(page):
    """The model goes on until it is stopped."""

    def go_on(route):
        asked = json.loads(route.request.post_data)
        route.continue_(post_data=json.dumps({**asked, "ignore_eos": True, "max_tokens": 200}))

    page.route(API, go_on)


def ask(page, text=QUESTION):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def last(page):
    return page.locator("#messages > li").last


def whole(page, n):
    """The answer that is the conversation's `n`-th message, when it is whole."""
    answer = page.locator("#messages > li").nth(n - 1)
    expect(answer).to_have_attribute("aria-busy", "false")
    expect(page.locator("#send")).to_be_visible()
    return answer


def test_an_answer_comes_in_parts_and_is_counted(open_page, shot):
    page = open_page()
    shot(page, "light-empty")
    page.evaluate(
        """() => {
            window.lengths = new Set();
            new MutationObserver(() => lengths.add(document.querySelector("#messages > li:nth-child(2) .content")?.textContent.length))
                .observe(document.getElementById("messages"), {subtree: true, childList: true, characterData: true});
        }"""
    )
    ask(page)
    answer = whole(page, 2)
    expect(answer.locator(".content")).to_contain_text("lantern")
    assert answer.locator(".content br").count() == 2, "a haiku has three lines"
    expect(answer.locator(".stats")).to_have_text(re.compile(r"^\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ s$"))
    assert page.evaluate("window.lengths.size") > 5, "it was shown in one piece"
    shot(page, "light-answer")


def test_the_policy_is_strict_and_the_page_is_whole(haiku, open_page):
    headers = open_page().request.get(haiku.url).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("how", ["button", "escape"])
def test_an_answer_can_be_stopped(haiku, open_page, how):
    page = open_page()
    endless(page)
    ask(page)
    expect(last(page).locator(".content")).not_to_be_empty()
    if how == "button":
        page.get_by_label("Stop the answer").click()
    else:
        page.keyboard.press("Escape")
    expect(last(page).locator(".notice")).to_have_text("Stopped.")
    haiku.wait_until_idle()
    # What was written stays, and the conversation goes on.
    page.unroute(API)
    expect(last(page).locator(".content")).not_to_be_empty()
    ask(page, "another")
    whole(page, 4)


def test_a_message_is_edited_and_asked_anew(open_page):
    page = open_page()
    ask(page)
    whole(page, 2)
    ask(page, "another one")
    whole(page, 4)
    page.locator("li.user").first.get_by_role("button", name="Edit").click()
    field = page.get_by_label("Edit the message")
    expect(field).to_be_focused()
    field.press("Escape")
    expect(page.locator("li.user .content").first).to_have_text(QUESTION)
    page.locator("li.user").first.get_by_role("button", name="Edit").click()
    field.fill(QUESTION.replace("lantern", "window"))
    field.press("Enter")
    expect(page.locator("#messages > li")).to_have_count(2)
    expect(whole(page, 2).locator(".content")).to_contain_text("window")
    # The arrow upwards edits the last message.
    page.get_by_label("Message", exact=True).press("ArrowUp")
    expect(field).to_have_value(QUESTION.replace("lantern", "window"))
    field.press("Escape")
    # An answer is changed in its place.
    last(page).get_by_role("button", name="Edit").click()
    field.fill("mine")
    page.get_by_role("button", name="Save").click()
    expect(last(page).locator(".content")).to_have_text("mine")


def test_an_answer_is_retried_with_other_settings(open_page, shot):
    page = open_page()
    asked = []
    page.on("request", lambda request: asked.append(request.post_data_json) if "completions" in request.url else None)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Most tokens").fill("4")
    shot(page, "light-settings")
    page.get_by_role("button", name="Done").click()
    ask(page)
    expect(whole(page, 2).locator(".notice")).to_contain_text("cut")
    assert [message["role"] for message in asked[0]["messages"]] == ["system", "user"]
    assert (asked[0]["temperature"], asked[0]["max_completion_tokens"], "top_p" in asked[0]) == (0, 4, False)
    short = last(page).locator(".content").inner_text()
    page.reload()
    expect(last(page).locator(".content")).to_have_text(short, use_inner_text=True)
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_label("Temperature")).to_have_value("0")
    page.get_by_role("button", name="Back to the defaults").click()
    page.keyboard.press("Escape")
    last(page).get_by_role("button", name="Retry").click()
    expect(page.locator("#messages > li")).to_have_count(2)
    answer = whole(page, 2).locator(".content")
    expect(answer).to_contain_text("lantern")
    assert [message["role"] for message in asked[1]["messages"]] == ["user"] and "temperature" not in asked[1]


def test_a_field_out_of_its_range_is_refused(open_page):
    page = open_page()
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Top-p").fill("7")
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    # Nothing may be there at all.
    assert "top_p" not in page.evaluate("localStorage.getItem('ferrowarp.settings') ?? ''")


def test_markdown_is_shown_and_nothing_in_it_runs(open_page, shot):
    page = open_page()
    answers(page, MARKDOWN)
    ask(page, "**not bold** <b>")
    expect(page.locator("li.user .content")).to_have_text("**not bold** <b>")
    text = whole(page, 2).locator(".content")
    expect(text.locator("h3")).to_have_text("Heading")
    expect(text.locator("p > strong").first).to_have_text("bold")
    expect(text.locator("strong > em, em > strong")).to_have_text("both")
    expect(text.locator("del")).to_have_text("gone")
    expect(text.locator("p code")).to_have_text("code <b>")
    expect(text).to_contain_text("snake_case_name, 2 * 3 * 4")
    expect(text.locator("ul ul li")).to_have_text("deep")
    expect(text.get_by_label("done")).to_be_checked()
    expect(text.locator("ol")).to_have_attribute("start", "3")
    expect(text.locator("td").first).to_have_text("x|y")
    expect(text.locator("td.right")).to_have_text("2")
    expect(text.locator("blockquote p")).to_have_text("quoted")
    expect(text.locator("figure.code pre")).to_have_text('fn main() { println!("<b>"); }')
    expect(text.locator("figcaption span")).to_have_text("rust")
    links = text.locator("a").evaluate_all("all => all.map(one => [one.textContent, one.href, one.rel])")
    rel = "noopener noreferrer"
    assert links == [
        ["link", "https://example.org/a_(b)", rel],
        ["https://example.org/c", "https://example.org/c", rel],
        ["image", "https://example.org/i.png", rel],
    ]
    assert page.locator("#messages :is(script, img, style, iframe)").count() == 0
    expect(text).to_contain_text("<script>window.hacked = true</script>")
    assert page.evaluate("window.hacked") is None
    text.get_by_label("Copy the code").click()
    expect(page.locator("#status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == 'fn main() { println!("<b>"); }'
    text.evaluate("text => text.scrollIntoView()")
    shot(page, "light-markdown")


def test_markdown_of_any_kind_takes_no_time(open_page):
    # Each would take minutes if time grew with the square of its length.
    hostile = ["*a " * 40_000, "[" * 40_000, "`" * 20_001 + "a", "> " * 20_000, "- " * 20_000, "**a_b" * 20_000, "|" * 20_000 + "\n" + "|-" * 20_000, "```" + "a" * 50_000 + "`"]
    hostile += ["\\" * 50_000, "https://a.b/" + ")" * 50_000, "<http://" * 20_000, "[a](" * 20_000, "# " * 20_000, "1. a\n   " * 5_000, "~~" * 30_000]
    milliseconds = open_page().evaluate(
        """async (all) => {
            const { render } = await import("./markdown.js");
            return all.map((one) => {
                const begin = performance.now();
                render(document.createElement("div"), one);
                return performance.now() - begin;
            });
        }""",
        hostile,
    )
    # A minute would be a square's; a busy machine's second is none.
    assert max(milliseconds) < 5_000, list(zip([one[:8] for one in hostile], map(round, milliseconds)))


def test_what_streams_is_what_is_shown_at_once(open_page):
    # A block that was shown stays what it is while the next one comes.
    assert open_page().evaluate(
        """async (text) => {
            const { render } = await import("./markdown.js");
            const [parts, once] = [document.createElement("div"), document.createElement("div")];
            for (let end = 1; end <= text.length; end += 1) render(parts, text.slice(0, end));
            render(once, text);
            return parts.innerHTML === once.innerHTML && parts.children.length > 8;
        }""",
        MARKDOWN,
    )


def test_errors_are_said_and_can_be_retried(open_page):
    page = open_page()
    error = {"error": {"message": "all slots are taken", "type": "rate_limit_error", "param": None, "code": None}}
    page.route(API, lambda route: route.fulfill(status=429, headers={"retry-after": "2"}, json=error))
    ask(page)
    expect(last(page).locator(".notice.error")).to_have_text("all slots are taken (try again in 2 s)")
    page.unroute(API)
    page.route(API, lambda route: route.fulfill(content_type="text/event-stream", body='data: {"choices": [{"delta": {"content": "a"}}]}\n\n'))
    last(page).get_by_role("button", name="Retry").click()
    expect(last(page).locator(".notice.error")).to_have_text("the connection ended before the answer did")
    page.unroute(API)
    page.route(API, lambda route: route.abort())
    last(page).get_by_role("button", name="Retry").click()
    expect(last(page).locator(".notice.error")).to_contain_text("cannot be reached")
    page.unroute(API)
    last(page).get_by_role("button", name="Retry").click()
    expect(whole(page, 2).locator(".content")).to_contain_text("lantern")
    expect(last(page).locator(".notice")).to_be_hidden()


def test_reasoning_is_shown_apart(open_page):
    page = open_page()
    parts = [{"choices": [{"index": 0, "delta": delta}]} for delta in [{"reasoning_content": "Five, "}, {"reasoning_content": "seven."}, {"content": "rain"}]]
    parts.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    body = "".join(f"data: {json.dumps(part)}\r\n\r\n" for part in parts) + ": a comment\n\ndata: [DONE]\n\n"
    page.route(API, lambda route: route.fulfill(content_type="text/event-stream", body=body))
    ask(page)
    expect(whole(page, 2).locator(".content")).to_have_text("rain")
    last(page).locator("summary").click()
    expect(last(page).locator(".reasoning .text")).to_have_text("Five, seven.")


def test_the_keyboard_alone_is_enough(open_page):
    page = open_page()
    answers(page, "yes", "yes")
    field = page.get_by_label("Message", exact=True)
    field.focus()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(field).to_have_value("one\ntwo")
    # An input method's Enter is no end.
    field.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    expect(page.locator("#messages > li")).to_have_count(0)
    page.keyboard.press("Enter")
    whole(page, 2)
    expect(page.locator("li.user .content")).to_have_text("one\ntwo", use_inner_text=True)
    expect(field).to_have_value("")
    page.keyboard.press("Enter")
    expect(page.locator("#messages > li")).to_have_count(2)
    # From the page's beginning, every control comes in turn, and each has a name.
    page.evaluate("document.activeElement.blur()")
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("(document.activeElement.ariaLabel || document.activeElement.labels?.[0]?.textContent || document.activeElement.textContent).trim()"))
    assert {"New chat", "Settings", "Copy", "Edit", "Retry", "Message", "Send"} <= set(names), names


def test_a_new_chat_begins_while_one_is_written(haiku, open_page):
    page = open_page()
    endless(page)
    ask(page)
    expect(last(page).locator(".content")).not_to_be_empty()
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#messages > li")).to_have_count(0)
    expect(page.locator("#send")).to_be_visible()
    haiku.wait_until_idle()
    page.unroute(API)
    page.locator("#examples button").first.click()
    expect(whole(page, 2).locator(".content")).to_contain_text("lantern")


def test_a_key_is_asked_for(serve, browser):
    server = serve("--api-key", "secret")
    page = browser.new_page()
    page.goto(server.url)
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill("secret")
    page.get_by_role("button", name="Done").click()
    expect(page.locator("#model")).to_have_text("haiku", use_inner_text=True)
    ask(page)
    expect(whole(page, 2).locator(".content")).not_to_be_empty()
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")
    page.close()


def test_light_and_dark(open_page, shot):
    def brightness(page):
        return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))

    page = open_page(color_scheme="dark")
    answers(page, MARKDOWN)
    ask(page)
    whole(page, 2)
    assert brightness(page) < 200
    shot(page, "dark-markdown")
    toggle = page.get_by_label(re.compile("^Colours"))
    toggle.click()
    assert brightness(page) > 600
    page.reload()
    assert brightness(page) > 600, "the choice was forgotten"
    toggle.click()
    expect(toggle).to_have_accessible_name("Colours: dark")
    assert brightness(page) < 200


def test_a_phone_is_wide_enough(open_page, shot):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    shot(page, "phone-empty")
    answers(page, MARKDOWN + "\n" + "x" * 300 + "\n\n```\n" + "y" * 300 + "\n```\n")
    ask(page, "z" * 200)
    whole(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    small = page.locator("header button, form#composer button:not([hidden])").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).filter(box => box.width && (box.width < 32 || box.height < 32)).length"
    )
    assert small == 0, "a finger needs more"
    page.locator("#scroller").evaluate("one => { one.scrollTop = 0 }")
    page.get_by_label("To the newest message").click()
    expect(page.get_by_label("To the newest message")).to_be_hidden()
    shot(page, "phone-markdown")
    page.get_by_role("button", name="Settings", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    shot(page, "phone-settings")
