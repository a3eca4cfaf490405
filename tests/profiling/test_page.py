"""The table of docs/performance.md, which the CPU's and the GPU's runs fill in."""

import pytest
from paths import ROOT

from ldm.profiling import page
from ldm.profiling.measure import Measurement
from ldm.profiling.timing import Spread
from ldm.util.errors import UserError

FAST = Measurement("U-Net forward", "fast", "fp32", Spread(0.01, 0.008, 0.02), speedup_over_peer=Spread(1.5, 1.4, 1.6))
STEP = Measurement("step", "cached", "bf16", Spread(1, 1, 1), peak_share=0.625, memory=2_500_000_000)


def test_each_device_fills_in_its_own_figures(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(f"# Speed\n\n{page.BEGIN}\n{page.END}\n\nThe end.\n")
    page.fill_in(file, "CPU", [FAST, STEP])
    page.fill_in(file, "GPU", [STEP])
    text = file.read_text()
    assert text.startswith(f"# Speed\n\n{page.BEGIN}\n\n| what | how | CPU: ms per image |") and text.endswith(
        "The end.\n"
    )
    assert "| U-Net forward | fast | 10.0 (8.0–20.0) | 1.50 (1.40–1.60) |  |  |  |  |  |  |" in text
    figures = "1000.0 (1000.0–1000.0) |  | 62% | 2.50"
    assert f"| step | cached | {figures} | {figures} |" in text
    page.fill_in(file, "CPU", [FAST])  # what is not measured any more goes, the GPU's figures stay
    assert f"| step | cached |  |  |  |  | {figures} |" in file.read_text()
    page.fill_in(file, "GPU", [])
    assert "| step |" not in file.read_text() and "| U-Net forward | fast | 10.0" in file.read_text()


def test_a_table_is_read_as_it_was_written():
    rows = page.merge(page.merge({}, "CPU", [FAST]), "GPU", [FAST, STEP])
    assert page.read_table(page.make_table(rows)) == rows


def test_a_page_without_the_two_lines_or_without_a_file_is_refused(tmp_path):
    file = tmp_path / "page.md"
    with pytest.raises(UserError, match="--page .*page.md: No such file"):
        page.fill_in(file, "CPU", [])
    file.write_text(page.END + page.BEGIN)
    with pytest.raises(UserError, match="add these two lines"):
        page.fill_in(file, "CPU", [])


def test_the_documentation_has_the_table():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert text.count(page.BEGIN) == text.count(page.END) == 1 and text.index(page.BEGIN) < text.index(page.END)
