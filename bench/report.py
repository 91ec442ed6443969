"""Prints results and saves them in docs/performance.md: a section per script, and a bar chart."""

import html
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parent.parent
PLOT = ROOT / "docs/performance.svg"
OURS, LIMIT, OTHERS = "#d9480f", "#adb5bd", "#4c6ef5"


class Report:
    def __init__(self, title, about):
        self.title, self.about, self.lines = title, about, []

    def __call__(self, text):
        print(text, flush=True)
        self.lines.append(text)

    def save(self, picture=None):
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
        text = "\n".join(self.lines)
        shown = f"![{picture}]({PLOT.name})\n\n" if picture else ""
        section = f"## {self.title}\n\nMeasured at commit {commit.stdout.strip()}. {self.about}\n\n{shown}```\n{text}\n```\n"
        path = ROOT / "docs/performance.md"
        head, *sections = path.read_text().split("\n## ")
        sections = [f"## {old.strip()}\n" for old in sections if not old.startswith(self.title)]
        index = 0 if self.title.startswith("The scoring server") else len(sections)
        sections.insert(index, section)
        path.write_text("\n".join([head.strip() + "\n", *sections]))


def plot(panels, path=PLOT):
    """Draws a bar chart for each panel (title, [(name, value)]), scaled to the panel's largest value."""
    name_width, bar_width, row, y = 270, 400, 20, 0
    parts = []

    def text(x, y, words, more=""):
        parts.append(f'<text x="{x}" y="{y}" {more}>{html.escape(words)}</text>')

    for title, bars in panels:
        y += 34
        text(0, y, title, 'font-weight="bold"')
        y += 10
        longest = max(value for _, value in bars)
        for name, value in bars:
            length = max(1, round(bar_width * value / longest))
            text(name_width - 8, y + 14, name, 'text-anchor="end"')
            colour = OURS if name == "Drisse" else LIMIT if name.startswith(("raw", "bare")) else OTHERS
            parts.append(f'<rect x="{name_width}" y="{y + 2}" width="{length}" height="{row - 4}" fill="{colour}"/>')
            text(name_width + length + 6, y + 14, f"{value:,.0f}")
            y += row
    width, height = name_width + bar_width + 80, y + 10
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    path.write_text("\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n")
