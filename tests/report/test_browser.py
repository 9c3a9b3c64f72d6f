"""The page in a real browser: it is searched, sorted and drawn, asks for nothing, and runs nothing of a model's."""

from __future__ import annotations

import re

import pytest

from support.browser import launched
from support.grids import FakeRun, made_up_grid
from support.made_up_runs import made_up_run
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.grid.leaderboard import write_leaderboard
from trl_nlpo.report.page import write_report


EVIL = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"

pytest.importorskip("plotly")
playwright = pytest.importorskip("playwright.sync_api", reason="a browser test needs playwright")


@pytest.fixture(scope="module")
def browser():
    with launched() as made:
        yield made


@pytest.fixture
def opened(browser):
    """Opens a page; at the end of the test nothing may have been asked for, and nothing complained about."""
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def open_page(path):
        page.goto(path.as_uri())
        # Not by a function: the page's policy lets nobody evaluate strings.
        page.locator("html[data-ready]").wait_for(state="attached")
        return page

    yield open_page
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [asked[0]]
    assert not complaints
    assert "run" not in page.title().split()
    context.close()


def column(page, table, place):
    return page.locator(f"{table} tbody tr > :nth-child({place})").all_inner_texts()


def settled(page, count):
    page.locator("[data-part=count]", has_text=re.compile(f"^{re.escape(count)}")).first.wait_for()


@pytest.mark.slow
def test_samples_are_searched_filtered_sorted_and_turned(opened, tmp_path):
    page = opened(write_report([made_up_run(tmp_path / "a", texts=(EVIL, "plain"))], tmp_path / "r.html"))
    rows = page.locator(".samples tbody tr")
    settled(page, "1 to 50 of 120")
    assert rows.count() == 50
    assert EVIL in rows.first.inner_text()
    assert page.locator(".samples img").count() == 0
    page.get_by_role("button", name="Next").click()
    settled(page, "51 to 100 of 120")
    # Upper case is found in lower case, and marked.
    page.locator("[data-part=words]").fill("PLAIN 1")
    settled(page, "1 to 16 of 16 (of 120 prompts)")
    assert rows.first.locator("mark").all_inner_texts() == ["plain 1", "plain 1"]
    page.locator("[data-part=within]").select_option("prompt")
    settled(page, "nothing found")
    page.locator("[data-part=words]").fill("")
    settled(page, "1 to 50 of 120")
    page.locator("[data-part=least]").fill("6.5")
    settled(page, "1 to 17 of 17")
    assert all(text.endswith("score 7") for text in column(page, ".samples", 3))
    page.locator("[data-part=least]").fill("")
    page.locator("[data-part=order]").select_option("high 1")
    settled(page, "1 to 50 of 120")
    scores = [float(text.rsplit(" ", 1)[1]) for text in column(page, ".samples", 3)]
    assert scores == sorted(scores, reverse=True)
    page.get_by_label("zero-shot", exact=True).uncheck()
    playwright.expect(page.locator(".samples thead th")).to_have_count(2)


@pytest.mark.slow
def test_tables_sort_figures_are_drawn_and_groups_are_switched_off(opened, tmp_path):
    folders = [made_up_run(tmp_path / "a"), made_up_run(tmp_path / "b", seed=1, gamma=0.5, texts=(EVIL,))]
    page = opened(write_report(folders, tmp_path / "r.html"))
    table = "table >> nth=0"
    cells = page.locator(table).locator("tbody tr > :nth-child(2)")

    def rewards():
        return [float(text.split()[0]) for text in cells.all_inner_texts()]

    before = rewards()
    page.locator(table).get_by_role("button", name="reward").first.click()
    assert rewards() == sorted(before, reverse=True) != before
    page.locator(table).get_by_role("button", name="reward").first.click()
    assert rewards() == sorted(before)
    figure = page.locator(".plot").first
    figure.scroll_into_view_if_needed()
    figure.locator(".main-svg").first.wait_for()
    assert figure.locator(".scatterlayer .trace").count() == 4
    page.locator(".groups button").first.click()
    playwright.expect(figure.locator(".scatterlayer .trace")).to_have_count(2)
    # A figure that is drawn later follows too.
    later = page.locator(".plot").nth(3)
    later.scroll_into_view_if_needed()
    later.locator(".main-svg").first.wait_for()
    assert later.evaluate("plot => plot.data.filter((trace) => trace.visible && trace.meta === 0).length") == 0
    recipe = page.locator("table.recipe tbody tr")
    assert [row.inner_text().split()[0] for row in recipe.all() if row.is_visible()] == ["gamma"]
    page.get_by_label("only keys that differ").uncheck()
    assert recipe.last.is_visible()


@pytest.mark.slow
def test_a_grid_has_a_tab_for_each_task_and_a_leaderboard_that_sorts(opened, tmp_path):
    subject = made_up_grid(tmp_path, recipes=("commongen", "imdb"))
    run_grid(subject, FakeRun(), lambda line: None)
    write_leaderboard(subject, "command")
    page = opened(write_report([subject.folder], tmp_path / "r.html"))
    first, second = page.locator("#task-0"), page.locator("#task-1")
    assert (first.is_visible(), second.is_visible()) == (True, False)
    page.get_by_role("tab", name="imdb").click()
    assert (first.is_visible(), second.is_visible()) == (False, True)
    board = second.locator("table").first
    board.get_by_role("button", name="reward").first.click()
    assert board.locator("tbody th").first.inner_text().startswith("supervised+nlpo")
    assert second.locator("table.comparisons tbody tr").count() > 0
    second.locator(".plot").first.scroll_into_view_if_needed()
    second.locator(".plot .main-svg").first.wait_for()
