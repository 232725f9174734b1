"""The operator's dashboard: patients, their states over time, alarms, the stored report, dose slices. It only reads.

Everything that the page needs comes from this process: Panel's own files from its package, the look from this folder, reports
from `derived/`. It listens on the loopback address only and accepts no page of another origin.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import panel
from markupsafe import Markup
from param.parameterized import discard_events

from flows.dashboard import panes
from flows.dashboard.alarms import Alarm, state_alarms, store_alarms
from flows.dashboard.slices import SliceViewer
from flows.notes import notes_of
from flows.report import BANNER
from storage.home import open_home
from storage.twins import TwinStore
from tdt_core.errors import TwinError
from tdt_core.twin import Decision

pn: Any = panel  # its widgets carry no types

ADDRESS = "127.0.0.1"
REFRESH_MS = 8_000
PATIENT_LIST = """
:host { width: 100%; font-size: 13px; }
label { white-space: normal; display: flex; gap: .5rem; align-items: baseline; padding: .35rem 0; line-height: 1.4; }
label, label * { overflow-wrap: anywhere; min-width: 0; }
label input { flex: none; }
"""


def _text(name: str) -> str:
    return resources.files("flows.dashboard").joinpath(name).read_text(encoding="utf-8")


class Dashboard:
    """One visitor's page. `side` lists patients; `main` shows the chosen state."""

    def __init__(self, store: TwinStore) -> None:
        self.store = store
        self.css = _text("dashboard.css")
        self.patients = pn.widgets.RadioBoxGroup(
            label="Patients", options=[], inline=False, sizing_mode="stretch_width", stylesheets=[PATIENT_LIST]
        )
        self.states = pn.widgets.RadioButtonGroup(label="State", options=[])
        self.side = pn.Column(self._html("<h3>Patients</h3>"), self.patients, sizing_mode="stretch_width")
        self.main = pn.Column(sizing_mode="stretch_width")
        self.heads: dict[str, str | None] = {}
        self.patients.param.watch(lambda _: self._show_patient(), "value")
        self.states.param.watch(lambda _: self._show_state(), "value")
        self.refresh()

    def _html(self, content: str) -> Any:
        return pn.pane.HTML(str(content), stylesheets=[self.css], sizing_mode="stretch_width")

    def refresh(self) -> None:
        """Read the list of patients again; the page changes only where a HEAD or a decision moved."""
        try:
            twins = self.store.list()
        except TwinError as error:
            self.main[:] = [self._html(panes.error_box(str(error)))]
            return
        options = {
            panes.patient_label(t.pid, t.head.cycle if t.head else 0, t.decision, t.head is not None): t.pid for t in twins
        }
        if not options:
            self.main[:] = [self._html("<p>No twin is in this store yet. <span class='mono'>tdt demo</span> makes one.</p>")]
            return
        if options == self.patients.options and self.heads == {t.pid: t.head.id if t.head else None for t in twins}:
            return
        self.heads = {t.pid: t.head.id if t.head else None for t in twins}
        chosen = self.patients.value
        with discard_events(self.patients):
            self.patients.options = options
            self.patients.value = chosen if chosen in options.values() else next(iter(options.values()))
        self.patients.param.trigger("options", "value")

    def _show_patient(self) -> None:
        pid = self.patients.value
        if not pid:
            return
        try:
            chain = self.store.log(pid)
        except TwinError as error:
            self.main[:] = [self._html(panes.error_box(str(error)))]
            return
        options = {f"Cycle {i.cycle}": i.id for i in reversed(chain)}
        with discard_events(self.states):
            self.states.options = options
            self.states.value = chain[0].id if chain else None
        self.states.param.trigger("options", "value")

    def _show_state(self) -> None:
        state_id = self.states.value
        if not state_id:
            self.main[:] = [self._html("<p>No state of this patient is in the store.</p>")]
            return
        try:
            self.main[:] = self._state_page(state_id)
        except TwinError as error:
            # a damaged store must be seen as such, not as a page that looks whole
            self.main[:] = [self.states, self._html(panes.error_box(str(error)))]

    def _state_page(self, state_id: str) -> list[Any]:
        store = self.store
        state, info = store.load(state_id), store.info(state_id)
        decision = store.decision(state_id)
        chain = store.log(state.pid)
        decisions: Mapping[str, Decision | None] = {i.id: store.decision(i.id) for i in chain}
        newest = bool(chain) and chain[0].id == state_id
        alarms = [*store_alarms(lambda: store.verify(state.pid)), *state_alarms(state, decision, newest=newest)]
        alarms += [Alarm("note", words) for words in notes_of(store, state_id)]
        report = store.home.derived / state_id / "report.html"
        overview = pn.Column(
            self._html(Markup("<h3>Alarms</h3>") + panes.alarm_list(alarms)),
            self._html(Markup("<h3>States</h3>") + panes.timeline(chain, decisions, state_id, len(store.branches(state.pid)))),
            pn.Row(
                self._html(panes.dose_table(state)),
                pn.Spacer(width=28),
                self._html(panes.facts(state)),
                sizing_mode="stretch_width",
            ),
            sizing_mode="stretch_width",
        )
        tabs = pn.Tabs(
            ("Overview", overview),
            ("Dose slices", self._slices(state_id, state)),
            ("Report", self._html(panes.report_frame(state_id, report.is_file()))),
            dynamic=True,
            sizing_mode="stretch_width",
        )
        return [self.states, self._html(panes.header(state, info, decision)), tabs]

    def _slices(self, state_id: str, state: Any) -> Any:
        try:
            with self.store.open_dose(state_id) as dose:
                return SliceViewer(state, dose.load(), self.css).panel
        except TwinError as error:
            return self._html(panes.alarm_list([Alarm("stop", str(error))]))


def page(store: TwinStore) -> Any:
    """A fresh page for one visitor."""
    dashboard = Dashboard(store)
    template = pn.Template(_text("template.html"))
    template.add_variable("banner", BANNER)
    template.add_variable("app_favicon", "")
    template.add_variable("apple_icon", "")
    template.add_panel("side", dashboard.side)
    template.add_panel("main", dashboard.main)
    pn.state.add_periodic_callback(dashboard.refresh, REFRESH_MS)
    return template


def free_port() -> int:
    """A port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def serve_dashboard(settings_or_home: Any, port: int = 0, show: bool = False) -> None:
    """Serve the dashboard of a TDT_HOME until the process is told to stop.

    Parameters
    ----------
    settings_or_home : the settings (their `home` is used) or the folder itself; it must exist.
    port : 0 takes a free one; the address is printed.
    show : open a browser.

    Raises
    ------
    StoreError : there is no twin store in the folder.
    """
    given = settings_or_home if isinstance(settings_or_home, (str, Path)) else settings_or_home.home
    home = open_home(given, create=False)
    store = TwinStore(home)
    port = port or free_port()
    pn.extension(design="native", notifications=False)
    server = pn.io.server.get_server(
        {"/": lambda: page(store)},
        port=port,
        address=ADDRESS,
        websocket_origin=[f"{ADDRESS}:{port}", f"localhost:{port}"],
        title="Theranostic digital twin",
        static_dirs={"derived": str(home.derived)},
        show=show,
        start=False,
    )
    print(f"Dashboard: http://{ADDRESS}:{port}/", flush=True)
    server.run_until_shutdown()
