"""The parts of a report.

protocol_blocks     groups of one protocol, and statistics of several groups
tables              each table, as text in cells
paper_comparison    the comparison with the paper's Table 4
formats             tables for terminal, Markdown and LaTeX; report.csv
charts              each figure, as panels
figure_style        colours and styles; the learning curves of report.png
figure_files        panels as PNG, SVG and PDF
html                the page, from page.html and page.css
report_files        the files of a report
"""
