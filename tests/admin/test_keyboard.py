"""The shell by keyboard and on a phone: the menu, the commands, single keys, questions before an action, what is copied."""

from __future__ import annotations

import asyncpg
from playwright.async_api import Page, expect
from tests.admin.conftest import PICTURES, Served, Tabs


async def at(tabs: Tabs, served: Served, path: str = "/style-guide", *, dark: bool = False, width: int = 1280) -> Page:
    page = await tabs.open("owner", dark=dark, width=width)
    await page.goto(f"{served.url}/admin{path}")
    return page


async def look(page: Page, name: str) -> None:
    """As much as a screen shows."""
    if PICTURES:
        await page.screenshot(path=f"{PICTURES}/{name}.png")


async def test_the_menu_of_a_phone_takes_the_focus_and_gives_it_back(tabs: Tabs, served: Served) -> None:
    page = await at(tabs, served, width=390)
    button, menu = page.locator(".menu-button"), page.locator("#menu")
    await look(page, "phone-top")
    await expect(menu).to_be_hidden()
    await button.focus()
    await page.keyboard.press("Enter")
    await expect(menu).to_be_visible()
    await expect(button).to_have_attribute("aria-expanded", "true")
    await expect(page.locator(".menu-close")).to_be_focused()
    await look(page, "phone-menu")
    await page.keyboard.press("Escape")
    await expect(menu).to_be_hidden()
    await expect(button).to_be_focused()
    await expect(button).to_have_attribute("aria-expanded", "false")
    await button.click()
    await page.locator("#menu a").last.focus()
    await page.keyboard.press("Tab")
    await expect(menu).to_be_hidden()
    assert not await button.evaluate("each => each === document.activeElement"), "whoever goes on is not called back"
    await button.click()
    await page.mouse.click(380, 600)
    await expect(menu).to_be_hidden()
    await button.click()
    await page.locator(".menu-close").click()
    await expect(menu).to_be_hidden()
    await expect(button).to_be_focused()


async def test_single_keys_go_places_unless_somebody_types_or_has_switched_them_off(tabs: Tabs, served: Served) -> None:
    page = await at(tabs, served)
    await page.keyboard.press("/")
    await expect(page.locator("#find")).to_be_focused()
    for key in ("g", "h", "?", "/"):
        await page.keyboard.press(key)
    await expect(page.locator("#find")).to_have_value("gh?/")
    await expect(page.locator("#keys")).to_be_hidden()
    await page.locator("#guide_note").focus()
    await page.keyboard.type("g h")
    assert page.url.endswith("/style-guide")
    await page.locator("h1").click()
    await page.keyboard.press("?")
    await expect(page.locator("#keys")).to_be_visible()
    await look(page, "keys")
    await page.keyboard.press("g")
    await page.keyboard.press("h")
    assert page.url.endswith("/style-guide"), "a dialog is open"
    await page.locator("#single-keys").uncheck()
    await page.keyboard.press("Escape")
    await page.reload()
    await page.locator("h1").click()
    await page.keyboard.press("?")
    await page.keyboard.press("/")
    await expect(page.locator("#keys")).to_be_hidden()
    await expect(page.locator("#find")).not_to_be_focused()
    await page.keyboard.press("Control+k")
    await page.locator("#palette-find").fill("keyb")
    await page.keyboard.press("Enter")
    await page.locator("#single-keys").check()
    await page.keyboard.press("Escape")
    await page.locator("h1").click()
    await page.keyboard.press("g")
    await page.keyboard.press("h")
    await page.wait_for_url("**/admin/")


async def test_commands_are_a_combobox(tabs: Tabs, served: Served) -> None:
    page = await at(tabs, served)
    await page.locator("#guide_name").focus()
    await page.keyboard.press("Control+k")
    find = page.get_by_role("combobox", name="Find a page or a payment")
    await expect(find).to_be_focused()
    await expect(find).to_have_attribute("aria-expanded", "true")
    await expect(page.locator("#palette").get_by_role("option").first).to_have_text("An action of this page")
    await find.fill("audit")
    await expect(page.locator("#palette").get_by_role("option", selected=True)).to_have_text("Audit trail")
    await look(page, "palette")
    await page.keyboard.press("ArrowDown")
    chosen = page.locator("#palette").get_by_role("option", selected=True)
    await expect(chosen).to_have_text("Search payments: audit")
    assert await find.get_attribute("aria-activedescendant") == await chosen.get_attribute("id")
    await page.keyboard.press("ArrowDown")
    await expect(page.locator("#palette").get_by_role("option", selected=True)).to_have_text("Audit trail")
    await page.keyboard.press("Escape")
    await expect(page.locator("#guide_name")).to_be_focused()


async def test_a_question_names_the_action_and_cancelling_does_nothing(tabs: Tabs, served: Served) -> None:
    page = await at(tabs, served)
    button = page.get_by_role("button", name="Look at test mode")
    await button.click()
    dialog = page.get_by_role("dialog", name="Switch?")
    await expect(dialog).to_contain_text("You will see the home of test mode.")
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await look(page, "confirm")
    await page.keyboard.press("Escape")
    assert page.url.endswith("/style-guide")
    await button.click()
    await dialog.get_by_role("button", name="Look at test mode").click()
    await page.wait_for_url("**/admin/")


async def test_what_is_copied_is_said(tabs: Tabs, served: Served) -> None:
    page = await at(tabs, served)
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy order-4711").click()
    await expect(page.locator("#said")).to_have_text("Copied: order-4711")
    assert await page.evaluate("navigator.clipboard.readText()") == "order-4711"


async def test_scheme_contrast_and_paper(
    tabs: Tabs, served: Served, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Who prefers a scheme has it whatever the machine prefers; in high contrast and on paper nothing is lost."""
    page = await at(tabs, served, dark=True)
    ground = "getComputedStyle(document.body).backgroundColor"
    assert await page.evaluate(ground) == "rgb(12, 17, 22)"
    await page.evaluate("document.documentElement.dataset.theme = 'light'")
    assert await page.evaluate(ground) == "rgb(245, 247, 248)"
    await page.emulate_media(color_scheme="light")
    await page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert await page.evaluate(ground) == "rgb(12, 17, 22)"
    await page.emulate_media(forced_colors="active")
    assert await page.evaluate("getComputedStyle(document.querySelector('.badge')).borderTopWidth") == "1px"
    await look(page, "forced-colors")
    await page.emulate_media(media="print", forced_colors="none")
    await expect(page.locator(".top")).to_be_hidden()
    await expect(page.locator(".menu")).to_be_hidden()
    assert await page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(22, 33, 43)"
    await look(page, "print")


async def test_without_scripts_the_menu_is_there(tabs: Tabs, served: Served) -> None:
    page = await tabs.open("owner", width=390, scripts=False)
    await page.goto(f"{served.url}/admin/style-guide")
    await expect(page.locator("#menu")).to_be_visible()
    await expect(page.locator(".menu-button")).to_be_hidden()
    await look(page, "no-scripts")
