"""Creates the handler of reports from the settings. It imports NumPy, so a worker without reports does not import it."""

import os

from consumers.reports.dask_lanes import DaskLanes, is_installed
from consumers.reports.keeping import Keepers
from consumers.reports.lanes import Lanes, ProcessLanes
from consumers.reports.run import Reporter
from infra.postgres.pool import DatabasePool
from infra.postgres.report_results import ReportResults
from infra.postgres.report_runs import ReportRuns
from infra.postgres.totals import Totals
from service.settings import Settings, SettingsError


def create_reporter(settings: Settings, pool: DatabasePool) -> Reporter:
    """The handler of reports. It stores through `pool`. Its processes start now; nothing connects before the first report.

    Raises:
        SettingsError: the extra `dask` is not installed.
    """
    lanes = _lanes(settings)
    keepers = Keepers(settings.database_url, settings.report_snapshot_seconds, spare=True)
    runs, results, totals = ReportRuns(pool), ReportResults(pool), Totals(pool)
    return Reporter(runs, results, totals, keepers, lanes, settings.report_timeout_seconds)


def _lanes(settings: Settings) -> Lanes:
    if not settings.report_scheduler:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return ProcessLanes(settings.report_processes or max(1, processors // 2), settings.database_url)
    if not is_installed():
        raise SettingsError("POSTHASTE_REPORT_SCHEDULER needs the extra `dask`: pip install 'posthaste[dask]'")
    return DaskLanes(settings.report_scheduler)
