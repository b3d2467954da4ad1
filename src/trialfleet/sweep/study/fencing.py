"""A study in a database, which only the driver that took it last can write.

A check before a write is not enough: a driver that is suspended between the two writes when it wakes. So the
driver that takes a study writes its token into it, and each of its transactions that wrote something reads the
token again before its COMMIT, locked. Two databases have it that a suspended driver's open transaction ends by
itself; with SQLite its successor waits until that driver wakes or dies.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage, RDBStorage

from trialfleet.compat.optuna import backend_of, select_user_attr
from trialfleet.sweep.study.lease import LeaseLost

if TYPE_CHECKING:  # it takes long to import: see `databases`
    from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

TOKEN = "trialfleet:epoch"  # user attribute of a study: the driver that took it, and the number of its lease
IDLE_SECONDS = 60  # of a transaction in which nothing happens; then PostgreSQL and MySQL roll it back

_WROTE = "trialfleet wrote"  # in a session's own notes: whether its transaction has something to commit
_LIMITS = {
    "postgresql": f"SET idle_in_transaction_session_timeout = {IDLE_SECONDS * 1000}",
    # Counts between transactions, too; a connection that was closed for it is made anew (pool_pre_ping).
    "mysql": f"SET SESSION wait_timeout = {IDLE_SECONDS}",
}
_LIMITS["mariadb"] = _LIMITS["mysql"]


def database_of(storage: BaseStorage) -> RDBStorage | None:
    """The storage itself or what it caches, if that is a database that this process writes."""
    return next((inner for inner in (storage, backend_of(storage)) if isinstance(inner, RDBStorage)), None)


class Fence:
    """Lets the transactions of one storage object through only while its driver is the last that took the study.

    A storage object has one study: once that is another driver's or deleted, nothing can be written through it.

    Args:
        token: tells this driver from any other.
        lease_check: raises if this driver may not write any more.
    """

    def __init__(self, storage: RDBStorage, study_id: int, token: str, lease_check: Callable[[], None]) -> None:
        from sqlalchemy import event

        self._storage = storage
        self._study_id = study_id
        self._token = token
        self._lease_check = lease_check
        self._taken = False
        sessions = storage.scoped_session
        event.listen(sessions, "after_flush", lambda session, context: _note_write(session))
        event.listen(sessions, "do_orm_execute", _note_statement)
        event.listen(sessions, "before_commit", self._before_commit)
        event.listen(sessions, "after_transaction_end", _forget_write)

    def take(self) -> None:
        """Make the study this driver's: from then on nobody who took it before can commit anything.

        Raises:
            LeaseLost: this driver may not write any more.
        """
        limit_idle_transactions(self._storage)
        self._taken = False
        self._storage.set_study_user_attr(self._study_id, TOKEN, self._token)
        self._taken = True
        found = self._storage.get_study_user_attrs(self._study_id).get(TOKEN)
        if found != self._token:  # somebody else's very first token came between; Optuna says nothing then
            raise _lost(found, self._token)

    def _before_commit(self, session: "Session") -> None:
        session.flush()
        if not session.info.get(_WROTE):
            return
        if not self._taken:
            # The rows that were written are locked until the COMMIT. Whoever took the study before that had the
            # lease before that, so a driver that was overtaken learns of it here; whoever takes it later comes later.
            self._lease_check()
            return
        found = _stored_token(session, self._study_id)
        if found != self._token:
            raise _lost(found, self._token)


def limit_idle_transactions(storage: RDBStorage) -> None:
    """See to it that a suspended driver's open transaction cannot keep its successor waiting for ever."""
    from sqlalchemy import event

    statement = _LIMITS.get(storage.engine.dialect.name)
    if statement is None or event.contains(storage.engine, "connect", _executes(statement)):
        return
    event.listen(storage.engine, "connect", _executes(statement))
    storage.engine.dispose()  # the connections that are open already have no limit


@cache
def _executes(statement: str) -> Callable[[Any, Any], None]:
    def execute(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        connection.commit()

    return execute


def _note_write(session: "Session") -> None:
    session.info[_WROTE] = True


def _forget_write(session: "Session", transaction: "SessionTransaction") -> None:
    if transaction.parent is None:  # each flush has one of its own within it
        session.info.pop(_WROTE, None)


def _note_statement(state: "ORMExecuteState") -> None:
    if state.is_insert or state.is_update or state.is_delete:
        _note_write(state.session)


def _stored_token(session: "Session", study_id: int) -> Any:
    """The token as it is at the end of this transaction: whoever wants to change it waits for our COMMIT."""
    text = session.execute(select_user_attr(study_id, TOKEN).with_for_update(read=True)).scalar_one_or_none()
    return None if text is None else json.loads(text)


def _lost(found: Any, token: str) -> LeaseLost:
    return LeaseLost(
        f"another driver took the study over in its database (it has {TOKEN}={found}, this driver {token})",
        "watch that one; this one has stopped and writes nothing more",
    )
