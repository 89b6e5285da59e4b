"""One self-contained HTML page about one run or a folder of runs."""

from fae_eval.report.collect import Collection, Run, collect
from fae_eval.report.page import write_report

__all__ = ["Collection", "Run", "collect", "write_report"]
