"""The planner of an incremental sync: walks GitLab's lists and opens child runs for what changed.

`plan` holds a lease on the parent while it asks, and gives it back when enough children are open; whoever commits or
ends a child wakes it. All it knows is in the ledger: where each walk stands is written with every child, so a planner
that was killed is followed by one that goes on from there.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import peewee

from lore.core import payloads, plan, runs, walk
from lore.core.errors import BusyError, LoreError, PassingError, RefusedError, SettingError
from lore.core.plan import Entity
from lore.gitlab import Answer, check_project, project_segment
from lore.logs import bind_context, get_logger
from models.base import clock, database, now_ms, read, write
from models.content import ENTITY_TABLES
from models.ledger import Project, Run, SyncCursor, SyncDebt, SyncStep
from models.queue import pause_host
from workers import landing, messages, moves, politeness, resources, syncing
from workers import runs as doors
from workers.actors import BEHIND_PEOPLE, actor, say_busy
from workers.ending import end_sync
from workers.walking import FEATURES, Lists, Stretch

log = get_logger(__name__)

# A planner that waits for its children is woken by them; when a call got lost, it looks for itself after this time.
LOOK_AGAIN_MS = 10_000
CHILDREN_A_WORKER = 2


@actor("plan", priority=BEHIND_PEOPLE)
def plan_sync(run_id: str) -> None:
    """Go on with a sync as far as its children allow."""
    held = take(run_id)
    if held is None:
        return
    try:
        held.work()
    except Lost:
        log.info("planner_lost", owner=held.owner)
    except PassingError as error:
        held.wait_or_doom(error)
    except BusyError:
        held.let_go(wait_ms=1_000)
        raise
    except LoreError as error:
        held.doom(error)
    except Exception as error:
        held.doom(RefusedError("INTERNAL", f"a bug of ours in the planner: {type(error).__name__}"))
        raise


class Lost(Exception):
    """The plan is somebody else's now, or its run has ended: stop without a trace."""


def take(run_id: str) -> Planner | None:
    """Take the planning of a sync for this delivery; None: somebody is at it, or it has ended."""
    owner = f"{resources.whoami()}/{uuid.uuid4().hex[:8]}"
    settings = resources.settings()
    with write():
        if not moves.lock_run(run_id, runs.QUEUED, runs.WALKING):
            return None
        run = Run.get_by_id(run_id)
        if run.kind == "surgical" or (run.stage_owner is not None and run.stage_until >= now_ms()):
            return None
        if run.stage_tries >= runs.COMMIT_TRIES_LIMIT:
            message = f"whoever planned it died or was lost, {run.stage_tries} times"
            moves.settle(run_id, runs.FAILED, error_code="POISON", error_message=message)
            return None
        if run.status == runs.QUEUED:
            moves.record(run_id, "walking", stage=runs.STAGE_PREFLIGHT)
        Run.update(
            status=runs.WALKING,
            stage_owner=owner,
            stage_until=clock() + settings.claim_lease_ms,
            stage_tries=Run.stage_tries + 1,
            stage_at=clock(),
            started_at=run.started_at or clock(),
            deadline_at=run.deadline_at or clock() + settings.run_deadline_ms,
        ).where(Run.run_id == run_id).execute()
    bind_context(run_id=run_id)
    return Planner(run_id, owner, run.kind, json.loads(run.options), run.sends)


@dataclass
class Planner:
    """One delivery's hold on the planning of a sync."""

    run_id: str
    owner: str
    kind: str
    options: dict[str, object]
    tries: int
    project_id: int = 0
    segment: str = ""
    gitlab_id: int = 0
    features: dict[str, object] = field(default_factory=dict)

    def work(self) -> None:
        """Walk, open children and wait for them, to the end."""
        self._check_host()
        self._confirm_project()
        if self.kind == "prune":
            from workers.pruning import prune  # noqa: PLC0415  # which borrows the planner's hold

            prune(self)
            return
        while True:
            state = self._look()
            if not state.is_walked and state.open < limit_of_children():
                if not self._plan_debts(state):
                    self._plan_stretch(state)
                continue
            if state.is_walked and not state.open:
                if state.is_doomed or not self._plan_left(state):
                    self._finish()
                    return
                continue
            if self._rest():
                return

    # ------------------------------------------------------------------------------------- the hold

    def hold(self) -> None:
        """Renew the lease, as the first statement of a transaction; it locks the parent's row.

        Raises:
            Lost: It is not ours any more; nothing may be written.
        """
        until = clock() + resources.settings().claim_lease_ms
        if not Run.update(stage_until=until).where(*self._is_held()).execute():
            raise Lost

    def made_progress(self) -> None:
        """Begin the time without progress anew, in the caller's transaction."""
        deadline_at = clock() + resources.settings().run_deadline_ms
        Run.update(deadline_at=deadline_at, stage_tries=1, sends=0).where(Run.run_id == self.run_id).execute()
        self.tries = 0

    def let_go(self, *, wait_ms: int) -> None:
        """Give the lease back, for a sweeper to send the plan again after a while; the deadline stands."""
        try:
            with write():
                Run.update(
                    stage_owner=None, stage_until=clock() + wait_ms, stage_tries=0, sent_at=None, sends=Run.sends + 1
                ).where(*self._is_held()).execute()
        except BusyError as error:
            say_busy("planner_kept_to_its_end", error, owner=self.owner)

    def wait_or_doom(self, error: PassingError) -> None:
        """Wait for what can pass; a wait past the deadline dooms the sync with its cause."""
        wait_ms = runs.retry_wait_ms(self.tries + 1, error.retry_after_s, jitter=random.random())
        with write():
            if error.pauses_host:
                pause_host(resources.settings().gitlab_url, wait_ms)
            deadline_at = Run.select(Run.deadline_at).where(Run.run_id == self.run_id).scalar()
            is_too_long = deadline_at is not None and now_ms() + wait_ms >= deadline_at
            if not is_too_long:
                why = {"code": error.code, "message": error.message[:500]}
                moves.record(self.run_id, "plan_waits", stage=runs.STAGE_PREFLIGHT, **why, wait_ms=wait_ms)
        log.warning("plan_waits", code=error.code, cause=error.message, wait_ms=wait_ms)
        if is_too_long:
            self.doom(error)
        else:
            self.let_go(wait_ms=wait_ms)

    def doom(self, error: LoreError) -> None:
        """Note why the sync fails once its open children have ended; they land what they can."""
        log.warning("plan_failed", code=error.code, cause=error.message)
        with write():
            if not Run.update(stage_until=Run.stage_until).where(*self._is_held()).execute():
                return
            self._mark_doomed(error.code, error.message)
        try:
            state = self._look()
            if not state.open:
                self._finish()
            else:
                self._rest()
        except Lost:
            log.info("planner_lost", owner=self.owner)

    def _mark_doomed(self, code: str, message: str) -> None:
        Run.update(error_code=code, error_message=message[:2000]).where(
            Run.run_id == self.run_id, Run.error_code.is_null()
        ).execute()

    def _is_held(self) -> tuple[peewee.Expression, ...]:
        return (Run.run_id == self.run_id, Run.status == runs.WALKING, Run.stage_owner == self.owner)

    def _rest(self) -> bool:
        """Give the lease back until a child gets on; False: one did so just now, so go on."""
        with write():
            # First, and only then a look: a child that came earlier found the lease taken, and is seen here.
            rested = Run.update(
                stage_owner=None,
                stage_until=clock() + LOOK_AGAIN_MS,
                stage_tries=0,
                deadline_at=None,
                sent_at=None,
                sends=0,
            ).where(*self._is_held())
            if not rested.execute():
                raise Lost
            state = self._state()
            has_work = not state.open if state.is_walked else state.open < limit_of_children()
            if not has_work:
                return True
            Run.update(
                stage_owner=self.owner,
                stage_until=clock() + resources.settings().claim_lease_ms,
                stage_tries=1,
                deadline_at=clock() + resources.settings().run_deadline_ms,
            ).where(Run.run_id == self.run_id).execute()
        return False

    # ------------------------------------------------------------------------------------ the state

    def _look(self) -> _State:
        with write():
            self.hold()
            state = self._state()
            if state.doomed_by is not None:
                self._mark_doomed(*state.doomed_by)
        return state

    def _state(self) -> _State:
        children = Run.select().where(Run.parent_run_id == self.run_id, Run.retry_of.is_null())
        doomed = (
            Run.select(Run.error_code, Run.error_message)
            .join(SyncStep, on=(SyncStep.child_run_id == Run.run_id))
            .where(SyncStep.run == self.run_id, ~SyncStep.is_done, Run.status.in_((runs.FAILED, runs.CANCELLED)))
            .order_by(Run.run_id)
            .tuples()
            .first()
        )
        error_code = Run.select(Run.error_code).where(Run.run_id == self.run_id).scalar()
        walked = {
            row[0]
            for row in SyncStep.select(SyncStep.entity_type)
            .where(SyncStep.run == self.run_id, SyncStep.is_last)
            .tuples()
        }
        return _State(
            open=children.where(Run.status.in_(runs.OPEN_STATUSES)).count(),
            to_walk=[kind for kind in plan.ENTITY_TYPES if kind not in walked],
            are_debts_planned=landing.DEBT in walked,
            is_left_planned=landing.LEFT in walked,
            doomed_by=(doomed[0] or "INTERNAL", doomed[1] or "") if doomed else None,
            is_doomed=doomed is not None or error_code is not None,
        )

    # --------------------------------------------------------------------------------- the project

    def _check_host(self) -> None:
        with read():
            run = Run.get_by_id(self.run_id)
            gitlab_url = Project.select(Project.gitlab_url).where(Project.project_id == run.project_id).scalar()
        ours = resources.settings().gitlab_url
        if gitlab_url != ours:
            message = (
                f"this worker speaks to {ours}, the run is of {gitlab_url}: start it with the run's LORE_GITLAB_URL"
            )
            raise SettingError("OTHER_GITLAB", message)

    def _confirm_project(self) -> None:
        """Ask for the project, unless it was confirmed within the hour; a renamed one is found by its id."""
        with read():
            run = Run.get_by_id(self.run_id)
            project = Project.get_by_id(run.project_id)
            is_known = project.gitlab_id is not None
            is_fresh = is_known and (project.confirmed_at or 0) > now_ms() - doors.CONFIRMED_FOR_MS
        self.project_id = run.project_id
        if not is_fresh or self.kind == "prune":
            asked = str(self.options["project"])
            answer = self.ask(f"/projects/{project_segment(project.gitlab_id if is_known else asked)}")
            found = payloads.decode_project(answer.body)
            check_project(found, gitlab_project_id=project.gitlab_id)
            self._bind(found, asked)
        with read():
            project = Project.get_by_id(self.project_id)
        assert project.gitlab_id is not None
        self.gitlab_id = project.gitlab_id
        self.segment = project_segment(project.gitlab_id)
        self.features = json.loads(project.raw or "{}")

    def _bind(self, found: payloads.Project, asked: str) -> None:
        with write():
            self.hold()
            run = Run.get_by_id(self.run_id)
            try:
                with database.atomic():
                    moves.bind_project(run, found, asked)
            except peewee.IntegrityError:
                # Asked by another path of a project whose sync is under way.
                moves.record(self.run_id, "sync_active", stage=runs.STAGE_PREFLIGHT, project=found.path_with_namespace)
                moves.settle(self.run_id, runs.SUCCEEDED)
                self.project_id = 0
            else:
                self.project_id = Run.select(Run.project).where(Run.run_id == self.run_id).scalar()
        if not self.project_id:
            raise Lost

    def ask(self, path: str, **params: str | int) -> Answer:
        """Ask GitLab, once the lease is renewed and the host asks for no pause."""
        with write():
            self.hold()
        politeness.heed()
        politeness.wait_for_room()
        return resources.gitlab().get(path, params=params or None)

    # ------------------------------------------------------------------------------------ the debts

    def _plan_debts(self, state: _State) -> bool:
        """Open children for the debts that are due, once a sync, before anything else; False: nothing to do."""
        if state.are_debts_planned:
            return False
        with write():
            self.hold()
            columns = (SyncDebt.entity_type, SyncDebt.iid, SyncDebt.error_code)
            due = SyncDebt.select(*columns).where(SyncDebt.project == self.project_id, SyncDebt.next_at <= clock())
            batches = walk.debt_batches([(Entity(row[0], row[1]), row[2]) for row in due.tuples()])
            children = [self._open_child(landing.DEBT, batch) for batch in batches]
            self._write_step(landing.DEBT, is_last=True, is_done=True)
            self.made_progress()
        self._send(children)
        return True

    def _plan_left(self, state: _State) -> bool:
        """Open children for what earlier syncs left behind their commits, once a sync, after its own; False: none."""
        if state.is_left_planned or not self.options["docs"]:
            return False
        with write():
            self.hold()
            committed = syncing.left_by_earlier(self.run_id, self.project_id)
            built = syncing.unembedded_by_earlier(self.run_id, self.project_id) if self.options["embed"] else {}
            children = []
            for batch in _batches(committed):
                sources = [source for entity in batch for source in committed[entity]]
                child = self._open_child(landing.LEFT, batch, starts_at=runs.DOCUMENTS, sources=sources)
                children.append((messages.DOCUMENTS, child))
            for batch in _batches(built.keys() - committed.keys()):
                documents = [document_id for entity in batch for document_id in built[entity]]
                child = self._open_child(landing.LEFT, batch, starts_at=runs.EMBEDDING, documents=documents)
                children.append((messages.EMBED, child))
            self._write_step(landing.LEFT, is_last=True, is_done=True)
            self.made_progress()
        for actor_name, child in children:
            messages.send_run(actor_name, child)
        return bool(children)

    # ------------------------------------------------------------------------------------- the walk

    def _plan_stretch(self, state: _State) -> None:
        """Walk the next kind until a child is full or the list ends; write where the walk stands, with the child."""
        entity_type = state.to_walk[0]
        if self.features.get(FEATURES[entity_type]) is False:
            with write():
                self.hold()
                self._write_step(entity_type, is_last=True, is_done=True)
            return
        with read():
            stretch = self._resume(entity_type)
        rows = Lists(self.ask, self.segment, self.gitlab_id).rows(entity_type, stretch)
        is_last = True
        for page in rows:
            current = self._current(entity_type, page, stretch.ahead_ms)
            for row in page:
                if len(stretch.wanted) == walk.CHILD_SIZE:
                    is_last = False
                    break
                if row.iid not in current and row.iid not in stretch.wanted:
                    stretch.wanted.append(row.iid)
                stretch.position = stretch.position.behind(row)
            if not is_last or (len(stretch.wanted) >= walk.CHILD_IS_FULL and not stretch.is_at_end):
                is_last = False
                break
        with write():
            self.hold()
            child = None
            if stretch.wanted:
                child = self._open_child(
                    entity_type, [Entity(entity_type, iid) for iid in stretch.wanted], stretch, is_last=is_last
                )
            else:
                self._write_step(entity_type, stretch=stretch, is_last=is_last, is_done=True)
                landing.move_cursor(self.project_id, self.run_id, entity_type)
            self._expect(entity_type, stretch.total)
            self.made_progress()
        if child is not None:
            self._send([child])

    def _resume(self, entity_type: plan.EntityType) -> Stretch:
        """Return where the walk stands: behind this sync's last step, else at the cursor."""
        step = (
            SyncStep.select()
            .where(SyncStep.run == self.run_id, SyncStep.entity_type == entity_type)
            .order_by(SyncStep.number.desc())
            .first()
        )
        if step is not None:
            return Stretch(walk.Position(step.position, frozenset(json.loads(step.seen))), step.bound, [])
        cursor = SyncCursor.get_or_none(SyncCursor.project == self.project_id, SyncCursor.entity_type == entity_type)
        return Stretch(walk.Position(cursor.updated_after if cursor else None), None, [])

    def _current(self, entity_type: plan.EntityType, page: Sequence[walk.Row], ahead_ms: int) -> set[int]:
        """Return the iids of a page that need no fetch: the mirror's are settled and equal, or they are debts."""
        table = ENTITY_TABLES[entity_type]
        iids = [row.iid for row in page]
        columns = (table.iid, table.updated_at, table.observed_at, table.children_observed_at, table.deleted_at)
        with read():
            mirror = {
                iid: walk.Local(updated_at, min(observed_at, children or 0), deleted_at is not None)
                for iid, updated_at, observed_at, children, deleted_at in table.select(*columns)
                .where(table.project == self.project_id, table.iid.in_(iids))
                .tuples()
            }
            owed = {
                row[0]
                for row in SyncDebt.select(SyncDebt.iid)
                .where(
                    SyncDebt.project == self.project_id,
                    SyncDebt.entity_type == entity_type,
                    SyncDebt.iid.in_(iids),
                )
                .tuples()
            }
        current = {row.iid for row in page if walk.is_current(row, mirror.get(row.iid), ahead_ms=ahead_ms)}
        return owed | current

    # --------------------------------------------------------------------------------- the children

    def _open_child(
        self,
        entity_type: str,
        entities: list[Entity],
        stretch: Stretch | None = None,
        *,
        is_last: bool = False,
        starts_at: str = runs.PREFLIGHT,
        sources: Sequence[syncing.Source] = (),
        documents: Sequence[int] = (),
    ) -> str:
        """Write a child run and its step, in the caller's transaction, which holds the parent's row."""
        number = self._next_number()
        child = runs.child_id(self.run_id, number)
        is_committed = starts_at != runs.PREFLIGHT
        syncing.open_child(
            self.run_id,
            child,
            self.project_id,
            entities,
            starts_at=starts_at,
            sources=sources,
            documents=documents,
        )
        self._write_step(entity_type, stretch=stretch, child=child, is_last=is_last, is_done=is_committed)
        moves.record(
            self.run_id,
            "child_opened",
            stage=runs.STAGE_PREFLIGHT,
            child=child,
            kind=entity_type,
            entities=len(entities),
        )
        return child

    def _write_step(
        self,
        entity_type: str,
        *,
        stretch: Stretch | None = None,
        child: str | None = None,
        is_last: bool = False,
        is_done: bool = False,
    ) -> None:
        SyncStep.insert(
            run=self.run_id,
            number=self._next_number(),
            entity_type=entity_type,
            child_run_id=child,
            position=stretch.position.at if stretch else None,
            seen=json.dumps(sorted(stretch.position.seen)) if stretch else "[]",
            bound=stretch.bound if stretch else None,
            is_last=is_last,
            is_done=is_done,
        ).execute()

    def _next_number(self) -> int:
        return int(SyncStep.select(peewee.fn.MAX(SyncStep.number)).where(SyncStep.run == self.run_id).scalar() or 0) + 1

    def _expect(self, entity_type: str, total: int | None) -> None:
        """Keep how many rows the walk began with, for whoever shows how far it is."""
        if total is None:
            return
        counters = json.loads(Run.select(Run.counters).where(Run.run_id == self.run_id).scalar())
        expected = counters.setdefault("expected", {})
        if entity_type not in expected:
            expected[entity_type] = total
            Run.update(counters=json.dumps(counters)).where(Run.run_id == self.run_id).execute()

    def _send(self, children: Sequence[str]) -> None:
        for child in children:
            messages.send_run(messages.PREFLIGHT, child)

    # -------------------------------------------------------------------------------------- the end

    def _finish(self) -> None:
        with write():
            self.hold()
            end_sync(self.run_id)


@dataclass(frozen=True)
class _State:
    """What a planner sees of its sync."""

    open: int
    to_walk: Sequence[plan.EntityType]
    are_debts_planned: bool
    is_left_planned: bool
    doomed_by: tuple[str, str] | None
    is_doomed: bool

    @property
    def is_walked(self) -> bool:
        """Whether no child will be added any more."""
        return self.is_doomed or not self.to_walk


def _batches(entities: Collection[Entity]) -> Iterator[list[Entity]]:
    ordered = sorted(entities)
    for start in range(0, len(ordered), walk.CHILD_SIZE):
        yield ordered[start : start + walk.CHILD_SIZE]


def limit_of_children() -> int:
    """Return how many children may be open: enough to keep the workers busy, few enough to be cancelled at once."""
    return CHILDREN_A_WORKER * max(1, doors.count_workers())
