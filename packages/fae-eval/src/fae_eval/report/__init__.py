"""One self-contained HTML page about one run or a folder of runs."""

from fae_eval.report.collect import Collection, Run, collect
from fae_eval.report.page import is_report, write_report

__all__ = ["Collection", "Run", "collect", "is_report", "write_report"]
