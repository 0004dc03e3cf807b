"""The parts of a report: blocks of comparable groups, tables in four formats, figures, and the HTML
page.

blocks.py    the groups of one protocol, and what is computed from several of them
tables.py    each table once, as text in cells         paper.py    the paper's Table 4 beside ours
formats.py   tables for terminal, Markdown, LaTeX; report.csv
charts.py    each figure once, as panels               svg.py      a panel as inline SVG, a figure
as PDF page.py      the HTML page, from page.html and page.css, with videos
"""
