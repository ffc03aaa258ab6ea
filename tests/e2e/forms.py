"""The form of a deployment in the Prefect UI, filled in by a browser as a person does."""

from shutil import which
from urllib.parse import urlsplit

from playwright.sync_api import expect, sync_playwright

from innkeeper.settings import settings

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
PATIENCE_MS = 60_000.0


def create_server(deployment_id: str, *, name: str, plan: str, image: str, disk_gib: int) -> None:
    """Open the form of `create-server`, fill it in and submit it; return when it was taken."""
    ui = urlsplit(settings().prefect_api_url)
    place = f"{ui.scheme}://{ui.netloc}/deployments/deployment/{deployment_id}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=which("chromium"), args=OPTIONS)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{place}/run")
        page.get_by_text("ServerRequest", exact=True).click()
        texts = page.locator("textarea")  # name, plan and image are the form's first fields
        expect(texts.nth(1)).to_have_value("small", timeout=PATIENCE_MS)
        for number, text in enumerate((name, plan, image)):
            texts.nth(number).fill(text)
        page.get_by_text("int", exact=True).first.click()
        page.locator("input[type=number]").first.fill(str(disk_gib))
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url(f"{place}?tab=Runs")
        browser.close()
