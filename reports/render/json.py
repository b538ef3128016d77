"""The report as JSON: the file that every other rendering can be made from again."""

from __future__ import annotations

from reports.build import report_text

RENDER = report_text
