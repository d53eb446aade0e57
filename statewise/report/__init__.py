"""What a run measured, as one JSON document and the same page in Markdown and HTML."""

from statewise.report.results import RunResults
from statewise.report.write import write_report

__all__ = ["RunResults", "write_report"]
