"""The page in every state, as all can use it: axe-core, both themes, a narrow window, large text, forced colours."""

from typing import Any

import pytest
from selenium.webdriver import ActionChains, Keys

from tests.browser.conftest import Site, Tab
from tests.browser.test_page import FIRST, OVERFLOW, SMALL_TARGETS, create_large, faults, insert_failed, violations

# WCAG 2.2, 1.4.12: text that a reader spaces out as far as this still fits.
SPACE_OUT = """
const sheet = new CSSStyleSheet();
sheet.replaceSync(`* { line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important }
p { margin-bottom: 2em !important }`);
document.adoptedStyleSheets = arguments[0] ? [sheet] : [];
"""
ENLARGE = "document.documentElement.style.fontSize = arguments[0]"
# Boxes that cut off the text in them.
CUT_TEXTS = """
return [...document.body.querySelectorAll("*")]
  .filter((element) => element.checkVisibility() && element.matches(":not(.sr-only)"))
  .filter((element) => getComputedStyle(element).overflow !== "visible")
  .filter((element) => element.scrollWidth > element.clientWidth + 1)
  .map((element) => element.outerHTML.slice(0, 120));
"""
MOTIONS = """
const parts = [null, "::before", "::after", "::-webkit-progress-value"];
const moves = ({ transitionDuration, animationDuration }) =>
  `${transitionDuration},${animationDuration}`.split(",").some((time) => parseFloat(time) > 0);
return [...document.body.querySelectorAll("*")]
  .filter((element) => parts.some((part) => moves(getComputedStyle(element, part))))
  .map((element) => element.outerHTML.slice(0, 80));
"""
# The controls that a keyboard must reach, one of radio buttons with one name; and its stops: a date has four.
CONTROLS = """
const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")];
const reachable = all.filter((element) => element.checkVisibility() && !element.disabled);
const modal = document.querySelector("dialog:modal");
const groups = new Set();
window.controls = reachable.filter((element) => !modal || modal.contains(element)).filter(({ type, name }) => {
  if (type !== "radio") return true;
  const isFirst = !groups.has(name);
  groups.add(name);
  return isFirst;
});
const dates = window.controls.filter(({ type }) => type === "date");
return [window.controls.length, window.controls.length + 3 * dates.length];
"""
# The index of the focused control; -1 outside of all, as at the page's end. And why the focus can't be seen, if so.
FOCUSED = """
const element = document.activeElement;
const isSame = (one) => one === element || (one.type === "radio" && one.name === element.name);
const index = window.controls.findIndex(isSame);
if (index < 0) return [-1, ""];
const marked = [element, element.closest(".choice")].filter(Boolean).some((one) => {
  const { outlineStyle, outlineWidth } = getComputedStyle(one);
  return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
});
const { top, bottom } = element.getBoundingClientRect();
const inView = bottom > 0 && top < innerHeight;
return [index, [marked ? "" : "no outline", inView ? "" : "out of view"].filter(Boolean).join(", ")
  && `${element.outerHTML.slice(0, 80)}`];
"""
OWN_BUTTON = "Show date picker"  # the browser's, in each field for a date
INTERACTIVE = {
    "button",
    "link",
    "radio",
    "checkbox",
    "textbox",
    "combobox",
    "DisclosureTriangle",
    "progressbar",
    "Date",
}
PHONE = 320
AXE_SECONDS = 240
DESKTOP = 1000
pytestmark = pytest.mark.timeout(600)  # axe-core runs dozens of times


def emulate(tab: Tab, **features: str) -> None:
    given = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    tab.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": given})


def resize(tab: Tab, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    tab.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def barriers(tab: Tab) -> list[str]:
    """All that keeps a person out of the page as it is shown now."""
    found: list[str] = []
    for looks in ({"prefers_color_scheme": "light"}, {"prefers_color_scheme": "dark"}, {"forced_colors": "active"}):
        emulate(tab, **looks)
        found += [f"{looks}: {fault}" for fault in faults(tab)]
    emulate(tab, prefers_reduced_motion="reduce")
    found += [f"moves: {fault}" for fault in tab.driver.execute_script(MOTIONS)]
    emulate(tab)
    resize(tab, PHONE)
    found += [f"narrow: {fault}" for fault in [*fits(tab), *tab.driver.execute_script(SMALL_TARGETS)]]
    tab.driver.execute_script(SPACE_OUT, True)
    found += [f"spaced out: {fault}" for fault in fits(tab)]
    tab.driver.execute_script(SPACE_OUT, False)
    resize(tab, 2 * PHONE)
    tab.driver.execute_script(ENLARGE, "200%")
    found += [f"enlarged: {fault}" for fault in fits(tab)]
    tab.driver.execute_script(ENLARGE, "")
    resize(tab, DESKTOP)
    return [*found, *walk(tab), *nameless(tab)]


def walk(tab: Tab) -> list[str]:
    """The controls that Tab doesn't reach, and those that don't show it; with a dialog open, those of the dialog."""
    count, stops = tab.driver.execute_script(CONTROLS)
    reached, unseen = set(), set()
    for _ in range(stops + 3):  # the end of the page and the browser's own controls are stops, too
        ActionChains(tab.driver).send_keys(Keys.TAB).perform()
        index, fault = tab.driver.execute_script(FOCUSED)
        reached.add(index)
        unseen |= {fault} - {""}
    missed = set(range(count)) - reached
    texts = "return arguments[0].map((index) => window.controls[index].outerHTML.slice(0, 80))"
    return [*tab.driver.execute_script(texts, sorted(missed)), *sorted(unseen)]


def nameless(tab: Tab) -> list[str]:
    """Controls that a screen reader can't name, and several that it names the same."""
    nodes: list[dict[str, Any]] = tab.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip())
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in INTERACTIVE
    ]
    buttons = [one for one in named if one[0] in {"button", "link"} and not one[1].startswith(OWN_BUTTON)]
    return [
        *(f"{role} without a name" for role, name in named if not name),
        *(f"two named {one}" for one in sorted(set(buttons)) if buttons.count(one) > 1),
    ]


def fits(tab: Tab) -> list[str]:
    beyond = tab.driver.execute_script(OVERFLOW)
    return [*([f"{beyond} px too wide"] if beyond else []), *tab.driver.execute_script(CUT_TEXTS)]


async def test_signing_in(tab: Tab) -> None:
    tab.open()
    tab.until(lambda: tab.is_shown("#sign-in"))
    tab.find(".curl summary").click()
    assert barriers(tab) == []
    tab.open("/#token=x.y.z")
    tab.until_text("#alert", "isn't valid")
    assert barriers(tab) == []
    tab.complaints()  # of the refused token


async def test_copies_in_every_state(site: Site, tab: Tab) -> None:
    user_id = await site.world.create_user(records=2_500)
    tab.sign_in(user_id)
    tab.until(lambda: tab.is_shown("#part"))
    tab.find("#part summary").click()
    assert barriers(tab) == []
    async with site.world.database() as connection:
        await insert_failed(connection, user_id, 12, "The application's database didn't answer: ask again later")
    tab.ask("csv")
    tab.until_text(f"{FIRST} .badge", "Waiting")
    assert barriers(tab) == []
    async with site.world.database() as connection:
        await connection.execute(
            """UPDATE carryout.export_jobs SET status = 'processing', attempt = 1, lease_expires_at = now(),
            records_done = 1000 WHERE user_id = $1 AND status = 'pending'""",
            user_id,
        )
    tab.until_text(f"{FIRST} .counted", "1,000 of 2,500 records")
    assert barriers(tab) == []
    tab.open()
    tab.until_count("#history .badge.failed", 9)
    tab.find(f"{FIRST} .remove").click()
    tab.until(lambda: tab.is_shown("#confirm"))
    assert barriers(tab) == []
    tab.find("#confirm-yes").click()
    tab.until_text(f"{FIRST} .badge", "Cancelled")
    told = tab.find("#status").get_attribute("textContent")  # to screen readers: of the button, or of the export's end
    assert told in {"Cancelled", "Your CSV copy is cancelled."}
    assert barriers(tab) == []


async def test_a_refusal_with_ranges(site: Site, tab: Tab) -> None:
    tab.sign_in(await create_large(site))
    tab.ask("json")
    tab.until_count("#ranges-list li", 3)
    assert barriers(tab) == []
    tab.complaints()  # of the refusal


@pytest.mark.parametrize(
    ("path", "heading"),
    [
        ("/nowhere", "This link doesn't lead to a file"),
        ("/api/export/0190b7f2-5d3c-7c1e-8a44-3f6f0b1f2a10/download?expires=1&signature=x", "This link"),
        ("/api/export", "Please sign in"),
    ],
)
async def test_error_pages(tab: Tab, path: str, heading: str) -> None:
    tab.open(path)
    assert heading in tab.text("h1")
    assert barriers(tab) == []
    tab.complaints()  # of the status


async def test_a_link_that_has_ended(site: Site, tab: Tab) -> None:
    user_id = await site.world.create_user(records=1)
    tab.sign_in(user_id)
    tab.ask("csv")
    tab.until_text(f"{FIRST} .badge", "Ready")
    link = tab.find(f"{FIRST} .download").get_attribute("href")
    tab.find(f"{FIRST} .remove").click()
    tab.find("#confirm-yes").click()
    tab.until_text(f"{FIRST} .badge", "Ended")
    assert barriers(tab) == []
    tab.driver.get(link or "")
    assert tab.text("h1") == "This link has ended"
    assert barriers(tab) == []
    tab.complaints()  # of the 410


OPEN_EACH_KIND = """
for (const kind of ["get", "post", "delete"]) {
  document.querySelector(`.opblock-${kind} .opblock-summary-control`).click();
}
"""
CLICK_ALL = "for (const part of document.querySelectorAll(arguments[0])) part.click()"
SCHEMA_PARTS = ".opblock-post .json-schema-2020-12-expand-deep-button"


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_reference(tab: Tab, theme: str) -> None:
    """Its colours are the same in both themes."""
    emulate(tab, prefers_color_scheme=theme)
    tab.driver.set_script_timeout(AXE_SECONDS)  # it is a long page
    tab.open("/docs")
    tab.until(lambda: tab.is_shown(".opblock-delete"))
    assert violations(tab.driver) == []
    tab.driver.execute_script(OPEN_EACH_KIND)
    tab.until_count(".try-out__btn", 3)
    tab.driver.execute_script(CLICK_ALL, ".try-out__btn")
    tab.until_count(".btn.execute", 3)
    assert violations(tab.driver) == []
    tab.driver.execute_script(CLICK_ALL, ".btn.execute")
    tab.until_count(".live-responses-table", 3)
    tab.driver.execute_script(CLICK_ALL, ".models-control, .tablinks[data-name=model]")
    tab.until(lambda: tab.is_shown(SCHEMA_PARTS))
    tab.driver.execute_script(CLICK_ALL, SCHEMA_PARTS)
    assert violations(tab.driver) == []
    tab.find(".btn.authorize").click()
    tab.until(lambda: tab.is_shown("#auth-bearer-value"))
    assert violations(tab.driver) == []
    tab.find("#auth-bearer-value").send_keys("x.y.z")
    tab.find(".auth-btn-wrapper .authorize").click()
    tab.until(lambda: tab.is_shown(".auth-container h6"))
    assert violations(tab.driver) == []
    tab.complaints()  # of the requests without a token
