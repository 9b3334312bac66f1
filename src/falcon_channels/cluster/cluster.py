"""The nodes that share a broker, and the messages between them.

Every message travels as control messages of the broker, which reach every node. A
`NodeMessage` names one node or all nodes, and a *kind*: the name of its handler.

A *survey* asks all nodes a question and collects the answers. Each node learns which
other nodes exist from these messages:

* A node sends *hello* when it starts, and each other node answers with *here*, and with
  the messages of `Cluster.welcome`.
* A node sends *goodbye* when it closes.
* Each answer to a survey names its sender.

A survey ends when all known nodes have answered. The first survey, and the first one
after the link to the broker was lost, also waits a second for unknown nodes. A node
that died delays one survey until its timeout. Then it is no longer known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
import inspect
import logging
import secrets
import time
from typing import Generic
from typing import NamedTuple
from typing import TypeVar

import msgspec

from falcon_channels.brokers.base import Broker
from falcon_channels.burst_log import BurstLog
from falcon_channels.cluster.chunks import Assembler
from falcon_channels.cluster.chunks import MAX_MESSAGE_BYTES
from falcon_channels.cluster.chunks import split
from falcon_channels.cluster.messages import encode_control
from falcon_channels.cluster.messages import NodeMessage
from falcon_channels.cluster.messages import UNDECODABLE
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.hub.hub import Hub
from falcon_channels.parts import in_parts

_logger = logging.getLogger('falcon_channels')

#: Seconds that a survey waits for known nodes that do not answer.
SURVEY_TIMEOUT_S = 3.0
#: Seconds that a survey waits for nodes that may not be known yet.
_DISCOVERY_S = 1.0
#: Largest number of surveys of this node that run at the same time.
_MAX_SURVEYS = 16
#: Largest number of nodes in `Cluster.gone`.
_MAX_GONE = 64

#: Returns the answer to the question of a survey. It must not block; an answer that
#: takes longer is a coroutine.
Answerer = Callable[[bytes], bytes | Awaitable[bytes]]

_HELLO, _HERE, _GOODBYE = 'hello', 'here', 'goodbye'
_ASK, _ANSWER = 'ask', 'answer'
#: In place of an answer that is too large. No encoded answer is empty.
_TOO_LARGE = b''
_T = TypeVar('_T')
_S = TypeVar('_S')


@dataclass(frozen=True)
class Answers(Generic[_T]):
    """The answers of all nodes to one question.

    Attributes:
        by_node: The answers by node id, in the order of the ids.
        silent: Ids of the other known nodes: they did not answer in time, have no
            answer to this question, or sent one that this version cannot decode.
        too_large: Ids of the silent nodes whose answer is too large to be sent.
    """

    by_node: dict[str, _T]
    silent: frozenset[str] = frozenset()
    too_large: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[_T]:
        return iter(self.by_node.values())

    def __len__(self) -> int:
        return len(self.by_node)

    def replace(self, by_node: dict[str, _S]) -> Answers[_S]:
        """Return decoded answers; a node without one is silent."""
        silent = self.silent | (self.by_node.keys() - by_node.keys())
        return Answers(by_node, silent, self.too_large)


class _Question(NamedTuple):
    """A question to all nodes, ``[survey, from, name, body]``."""

    survey: str
    sender: str
    name: str
    body: bytes


class _Answer(NamedTuple):
    """The answer of one node, ``[survey, from, body]``.

    A body of ``None`` means that the node has no answer to this question. `_TOO_LARGE`
    means that its answer is too large to be sent.
    """

    survey: str
    sender: str
    body: bytes | None


class _Survey:
    """Collects answers until all awaited nodes have answered."""

    def __init__(self, awaited: set[str]) -> None:
        self._awaited = awaited
        self.answered: set[str] = set()
        self.answers: dict[str, bytes] = {}
        self.too_large: set[str] = set()
        self.complete = asyncio.Event()

    def add(self, answer: _Answer) -> None:
        """Add the answer of one node."""
        if answer.body == _TOO_LARGE:
            self.too_large.add(answer.sender)
        elif answer.body is not None:
            self.answers[answer.sender] = answer.body
        self.answered.add(answer.sender)
        self._check()

    def stop_waiting_for(self, node: str) -> None:
        """Complete the survey without a node that has closed."""
        self._awaited.discard(node)
        self._check()

    def _check(self) -> None:
        if self._awaited <= self.answered:
            self.complete.set()


class Cluster:
    """The nodes that share a broker, seen from this node.

    Args:
        hub: Hub of this node.
        broker: Broker that carries the messages.
        node: Id of this node.

    Attributes:
        id: Id of this node.
    """

    def __init__(self, hub: Hub, broker: Broker, node: str) -> None:
        self._hub = hub
        self._broker = broker
        self.id = node
        self._handlers: dict[str, Callable[[bytes], None]] = {
            _HELLO: self._on_hello,
            _HERE: self._on_here,
            _GOODBYE: self._on_goodbye,
            _ASK: self._on_ask,
            _ANSWER: self._on_answer,
        }
        self._answerers: dict[str, Answerer] = {}
        self._welcomes: dict[str, Callable[[], bytes]] = {}
        self._assembler = Assembler()
        self._surveys: dict[str, _Survey] = {}
        self._slots = asyncio.Semaphore(_MAX_SURVEYS)
        self._known = {node}
        #: Nodes that are no longer known, and the Unix times at which they left.
        self._gone: dict[str, float] = {}
        self._warned = False
        self._malformed_log = BurstLog()
        #: `Counters.links_lost` when `_known` was last complete; ``None`` for never.
        self._num_losses_when_complete: int | None = None

    def add_handler(self, kind: str, handler: Callable[[bytes], None]) -> None:
        """Call `handler` with the body of each message of a kind.

        Args:
            kind: Name of the kind.
            handler: Must not block, and may raise errors of `UNDECODABLE`.
        """
        self._handlers[kind] = handler

    def welcome(self, kind: str, make_body: Callable[[], bytes]) -> None:
        """Send a message to each node that starts from now on.

        Several nodes may send it to the same node.

        Args:
            kind: Name of the handler there.
            make_body: Returns the body. If it is empty, nothing is sent.
        """
        self._welcomes[kind] = make_body

    def add_answerer(self, name: str, answerer: Answerer) -> None:
        """Answer surveys of a name with the result of `answerer`."""
        self._answerers[name] = answerer

    def adopt_handlers(self, earlier: Cluster) -> None:
        """Copy the handlers and answerers of the cluster object before a restart."""
        self._handlers = {**earlier._handlers, **self._handlers}
        self._answerers = {**earlier._answerers, **self._answerers}

    def warn_of_several_processes(self) -> None:
        """Log once that several processes use a broker that they do not share."""
        if self._broker.capabilities.shared or self._warned:
            return
        self._warned = True
        _logger.warning(
            'the broker delivers within one process only, but this server has several '
            'processes: clients of one process do not receive publications of another. '
            'Give Channels the URL of a shared broker, such as sqlite:///channels.db'
        )

    def knows(self, node: str) -> bool:
        """Return whether a node has announced itself, and has not sent *goodbye*."""
        return node in self._known

    @property
    def nodes(self) -> frozenset[str]:
        """Ids of the known nodes, with this one."""
        return frozenset(self._known)

    @property
    def gone(self) -> dict[str, float]:
        """Ids of nodes that have closed or do not answer, and Unix times in seconds.

        There are at most 64, the newest ones.
        """
        return dict(self._gone)

    def _add(self, node: str) -> None:
        self._known.add(node)
        self._gone.pop(node, None)

    def _remove(self, node: str) -> None:
        if node in self._known:
            self._known.discard(node)
            self._gone[node] = time.time()
            if len(self._gone) > _MAX_GONE:
                del self._gone[next(iter(self._gone))]

    async def send(self, node: str, kind: str, body: bytes) -> None:
        """Send a message to one node, or to all nodes where `node` is ``''``.

        Args:
            node: Id of the node.
            kind: Name of the handler there.
            body: At most 4 MiB; it travels in pieces of 3 KiB.

        Raises:
            BrokerUnavailableError: The message may or may not have been sent.
        """
        for message in split(node, kind, body):
            await self._broker.control(encode_control(message))

    async def ask_encoded(
        self, name: str, body: bytes = b'', *, timeout_s: float = SURVEY_TIMEOUT_S
    ) -> Answers[bytes]:
        """Ask all nodes a question; return the answers as bytes, without decoding.

        Args:
            name: Name of the answerer on each node.
            body: Argument for the answerer.
            timeout_s: Seconds to wait for nodes that do not answer.

        Raises:
            BrokerUnavailableError: The question was not sent.
        """
        if not self._broker.capabilities.shared:
            return Answers({self.id: await _result(self._answerers[name](body))})
        async with self._slots:
            num_losses = self._hub.counters.links_lost
            all_known = (
                self._num_losses_when_complete == num_losses
                and not self._hub.receiver.link_lost
            )
            known = frozenset(self._known)
            survey = _Survey(set(known))
            token = secrets.token_urlsafe(9)
            self._surveys[token] = survey
            question = _Question(token, self.id, name, body)
            try:
                await self.send('', _ASK, msgspec.msgpack.encode(question))
                async with asyncio.timeout(timeout_s):
                    if not all_known:
                        await asyncio.sleep(_DISCOVERY_S)
                    await survey.complete.wait()
            except TimeoutError:
                # NOTE: a node that did not answer is dead or busy. The next survey
                #   does not wait for it again.
                for node in self._known - survey.answered - {self.id}:
                    self._remove(node)
            finally:
                del self._surveys[token]
            self._num_losses_when_complete = num_losses
            answers = dict(sorted(survey.answers.items()))
            silent = (known | survey.answered) - answers.keys()
            return Answers(answers, silent, frozenset(survey.too_large))

    async def ask(
        self,
        name: str,
        body: bytes,
        answer_type: type[_T],
        *,
        timeout_s: float = SURVEY_TIMEOUT_S,
    ) -> Answers[_T]:
        """Ask all nodes a question, and decode the answers.

        An answer that this version cannot decode is counted, logged and left out. One
        node of another version then does not hide the answers of all others.

        Args:
            name: Name of the answerer on each node.
            body: Argument for the answerer.
            answer_type: Type of an answer, which is encoded as MessagePack.
            timeout_s: Seconds to wait for nodes that do not answer.

        Raises:
            BrokerUnavailableError: The question was not sent.
        """
        answers = await self.ask_encoded(name, body, timeout_s=timeout_s)
        decoded: dict[str, _T] = {}
        async for ((node, answer),) in in_parts(list(answers.by_node.items()), 1):
            try:
                decoded[node] = msgspec.msgpack.decode(answer, type=answer_type)
            except UNDECODABLE as ex:
                self._note_malformed(node, name, ex)
        return answers.replace(decoded)

    async def ask_for_parts(
        self, name: str, body: bytes, part_type: type[_T]
    ) -> Answers[list[_T]]:
        """Ask all nodes a question whose answers are lists, as `ask` does.

        A list can be too long to be decoded without a pause. There is therefore a pause
        after each of its elements.

        Args:
            name: Name of the answerer on each node.
            body: Argument for the answerer.
            part_type: Type of an element of an answer.

        Raises:
            BrokerUnavailableError: The question was not sent.
        """
        answers = await self.ask(name, body, list[msgspec.Raw])
        decoded: dict[str, list[_T]] = {}
        for node, raws in answers.by_node.items():
            try:
                decoded[node] = [
                    msgspec.msgpack.decode(raw, type=part_type)
                    async for (raw,) in in_parts(raws, 1)
                ]
            except UNDECODABLE as ex:
                self._note_malformed(node, name, ex)
        return answers.replace(decoded)

    def _note_malformed(self, node: str, survey: str, error: Exception) -> None:
        self._hub.counters.control_errors += 1
        self._malformed_log.warning(
            'left out the answer of node %.40r to the survey %r: %s. Its version may '
            'differ from the version of this node',
            node,
            survey,
            error,
        )

    async def hello(self) -> None:
        """Announce to the other nodes that this node has started."""
        await self._announce(_HELLO)

    async def goodbye(self) -> None:
        """Announce to the other nodes that this node closes."""
        await self._announce(_GOODBYE)

    async def _announce(self, kind: str, node: str = '') -> None:
        if self._broker.capabilities.shared:
            try:
                await self.send(node, kind, self.id.encode())
            except BrokerUnavailableError as ex:
                _logger.warning('could not send %r to the other nodes: %s', kind, ex)

    # --- messages from other nodes ---------------------------------------------------

    def on_message(self, message: NodeMessage) -> None:
        """Called when a message from a node arrives, which may be this one."""
        if message.node not in ('', self.id):
            return
        handler = self._handlers.get(message.kind)
        if handler is None:
            # NOTE: the sender has a newer version, or this node does not use that part.
            _logger.debug('node messages of kind %r have no handler', message.kind)
            return
        body = self._assembler.add(message)
        if body is None:
            return
        try:
            handler(body)
        except UNDECODABLE as ex:
            self._hub.counters.control_errors += 1
            _logger.error('node message %r is malformed: %s', message.kind, ex)

    def _on_hello(self, body: bytes) -> None:
        node = body.decode()
        self._add(node)
        if node != self.id:
            self._hub.tasks.spawn(self._welcome(node), 'hello back')

    async def _welcome(self, node: str) -> None:
        await self._announce(_HERE, node)
        for kind, make_body in self._welcomes.items():
            body = make_body()
            if body:
                try:
                    await self.send(node, kind, body)
                except BrokerUnavailableError as ex:
                    _logger.warning('could not send %r to a new node: %s', kind, ex)

    def _on_here(self, body: bytes) -> None:
        self._add(body.decode())

    def _on_goodbye(self, body: bytes) -> None:
        node = body.decode()
        self._remove(node)
        for survey in self._surveys.values():
            survey.stop_waiting_for(node)

    def _on_ask(self, body: bytes) -> None:
        question = msgspec.msgpack.decode(body, type=_Question)
        self._hub.tasks.spawn(self._reply(question), 'survey answer')

    async def _find_answer(self, question: _Question) -> bytes | None:
        """Return the answer of this node, or ``None`` if it has none.

        NOTE: without any answer, the sender would wait for this node until its timeout,
        and then not know it any more.
        """
        answerer = self._answerers.get(question.name)
        if answerer is None:
            return None
        try:
            return await _result(answerer(question.body))
        except UNDECODABLE as ex:
            self._hub.counters.control_errors += 1
            _logger.error('question %r is malformed: %s', question.name, ex)
        except Exception:
            self._hub.counters.task_errors += 1
            _logger.exception('the survey %r failed', question.name)
        return None

    async def _reply(self, question: _Question) -> None:
        body = await self._find_answer(question)
        answer = msgspec.msgpack.encode(_Answer(question.survey, self.id, body))
        if len(answer) > MAX_MESSAGE_BYTES:
            _logger.error(
                'answer of %d bytes to the survey %r exceeds %d bytes and is not sent',
                len(answer),
                question.name,
                MAX_MESSAGE_BYTES,
            )
            refusal = _Answer(question.survey, self.id, _TOO_LARGE)
            answer = msgspec.msgpack.encode(refusal)
        try:
            await self.send(question.sender, _ANSWER, answer)
        except BrokerUnavailableError as ex:
            _logger.warning('survey %r was not answered: %s', question.name, ex)

    def _on_answer(self, body: bytes) -> None:
        answer = msgspec.msgpack.decode(body, type=_Answer)
        self._add(answer.sender)
        survey = self._surveys.get(answer.survey)
        if survey is not None:
            survey.add(answer)


async def _result(answer: bytes | Awaitable[bytes]) -> bytes:
    """Return an answer, after a wait if it takes longer."""
    return await answer if inspect.isawaitable(answer) else answer
