"""Processes that share a broker, and how one speaks to another.

Everything travels as control messages, which reach every process: a `NodeMessage` for
one process or for all, with a *kind* that says who reads it there.

A *survey* puts a question to all processes and gathers their answers. Nobody keeps a
list of the processes, so that one is learned: each says hello when it starts, is told
by the others that they are there, and says goodbye when it closes; and each answer
tells of one more. A survey ends when all that are known have answered. The first one,
and one after the link was lost, also waits a while for processes that are not known. A
process that died is waited for once more, as long as a survey may last, and then
forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import logging
import secrets
from typing import NamedTuple

import msgspec

from falcon_channels.brokers.base import Broker
from falcon_channels.cluster.messages import encode_control
from falcon_channels.cluster.messages import NodeMessage
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.hub.hub import Hub

_logger = logging.getLogger('falcon_channels')

#: How long a survey waits for processes that do not answer.
SURVEY_TIMEOUT_S = 3.0
#: How long a survey waits for processes that may not be known.
_SETTLE_S = 1.0
#: Largest part of an answer: brokers carry small control messages best.
_PART_BYTES = 3072
#: Largest answer.
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
#: How many surveys of this process may be under way.
_MAX_SURVEYS = 16

_HELLO, _HERE, _GOODBYE = 'hello', 'here', 'goodbye'
_ASK, _ANSWER = 'ask', 'answer'


class _Question(NamedTuple):
    """What a process asks of all, ``[survey, from, name, body]``."""

    survey: str
    sender: str
    name: str
    body: bytes


class _Part(NamedTuple):
    """A part of an answer, ``[survey, from, number, total, body]``.

    A total of 0 says that the process has no answer to this question.
    """

    survey: str
    sender: str
    number: int
    total: int
    body: bytes


class _Survey:
    """Answers as they come in."""

    def __init__(self, awaited: set[str]) -> None:
        self.awaited = awaited
        self.heard: set[str] = set()
        self.parts: dict[str, dict[int, bytes]] = {}
        self.answers: dict[str, bytes] = {}
        self.complete = asyncio.Event()

    def take(self, part: _Part) -> None:
        if part.total:
            parts = self.parts.setdefault(part.sender, {})
            parts[part.number] = part.body
            if len(parts) < part.total:
                return
            self.answers[part.sender] = b''.join(parts[i] for i in sorted(parts))
        self.heard.add(part.sender)
        self.look()

    def look(self) -> None:
        """See whether all have answered."""
        if self.awaited <= self.heard:
            self.complete.set()


class Nodes:
    """This process among those that share its broker.

    Args:
        hub: Of this process.
        broker: Carries the messages.
        node: Id of this process.

    Attributes:
        id: As given.
    """

    def __init__(self, hub: Hub, broker: Broker, node: str) -> None:
        self._hub = hub
        self._broker = broker
        self.id = node
        self._readers: dict[str, Callable[[bytes], None]] = {
            _HELLO: self._on_hello,
            _HERE: self._on_here,
            _GOODBYE: self._on_goodbye,
            _ASK: self._on_ask,
            _ANSWER: self._on_answer,
        }
        self._answerers: dict[str, Callable[[bytes], bytes]] = {}
        self._surveys: dict[str, _Survey] = {}
        self._slots = asyncio.Semaphore(_MAX_SURVEYS)
        self._known = {node}
        self._warned = False
        #: `Counters.links_lost` when `_known` was completed; -1 for never.
        self._known_at = -1

    def read(self, kind: str, reader: Callable[[bytes], None]) -> None:
        """Call `reader` with the body of each message of a kind; it must not block."""
        self._readers[kind] = reader

    def answer(self, name: str, answerer: Callable[[bytes], bytes]) -> None:
        """Answer surveys of a name by calling `answerer`; it must not block."""
        self._answerers[name] = answerer

    def warn_of_others(self) -> None:
        """Say once that processes beside this one have channels of their own."""
        if self._broker.capabilities.shared or self._warned:
            return
        self._warned = True
        _logger.warning(
            '%s keeps channels within one process, and this server has several: the '
            'clients of one do not hear those of another. Give Channels the URL of a '
            'broker that they share, such as sqlite:///channels.db',
            type(self._broker).__name__,
        )

    def take_over(self, before: Nodes) -> None:
        """Know the readers and answerers that others gave to an earlier object."""
        self._readers = {**before._readers, **self._readers}
        self._answerers = {**before._answerers, **self._answerers}

    async def send(self, node: str, kind: str, body: bytes) -> None:
        """Send something to one process, or to all where `node` is ``''``.

        Raises:
            BrokerUnavailableError: Sent or not.
        """
        await self._broker.control(encode_control(NodeMessage(node, kind, body)))

    async def survey(
        self, name: str, body: bytes = b'', *, timeout_s: float = SURVEY_TIMEOUT_S
    ) -> dict[str, bytes]:
        """Ask all processes something; return their answers by their ids.

        Args:
            name: Which answerer of each process is asked.
            body: For the answerer.
            timeout_s: How long to wait for processes that do not answer.

        Raises:
            BrokerUnavailableError: The question was not sent.
        """
        if not self._broker.capabilities.shared:
            return {self.id: self._answerers[name](body)}
        async with self._slots:
            lost = self._hub.counters.links_lost
            known = self._known_at == lost and not self._hub.link_lost
            survey = _Survey(set(self._known))
            token = secrets.token_urlsafe(9)
            self._surveys[token] = survey
            question = _Question(token, self.id, name, body)
            try:
                await self.send('', _ASK, msgspec.msgpack.encode(question))
                async with asyncio.timeout(timeout_s):
                    if not known:
                        await asyncio.sleep(_SETTLE_S)
                    await survey.complete.wait()
            except TimeoutError:
                # NOTE: those who did not answer now are not waited for again.
                self._known = {self.id, *survey.heard}
            finally:
                del self._surveys[token]
            self._known_at = lost
            return survey.answers

    async def hello(self) -> None:
        """Tell the others that this process is there."""
        await self._tell(_HELLO)

    async def goodbye(self) -> None:
        """Tell the others that this process ends; bounded by the broker's deadline."""
        await self._tell(_GOODBYE)

    async def _tell(self, kind: str, node: str = '') -> None:
        if self._broker.capabilities.shared:
            try:
                await self.send(node, kind, self.id.encode())
            except BrokerUnavailableError as ex:
                _logger.warning('could not say %s to other processes: %s', kind, ex)

    # --- what others say -------------------------------------------------------------

    def on_message(self, message: NodeMessage) -> None:
        """Called with each message between nodes."""
        if message.node not in ('', self.id):
            return
        reader = self._readers.get(message.kind)
        if reader is None:
            # NOTE: of a newer version, or for a part that this process does not use.
            _logger.debug('nobody reads node messages of kind %r', message.kind)
            return
        try:
            reader(message.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as ex:
            self._hub.counters.control_errors += 1
            _logger.error('node message %r cannot be read: %s', message.kind, ex)

    def _on_hello(self, body: bytes) -> None:
        node = body.decode()
        self._known.add(node)
        if node != self.id:
            self._hub.spawn(self._tell(_HERE, node), 'hello back')

    def _on_here(self, body: bytes) -> None:
        self._known.add(body.decode())

    def _on_goodbye(self, body: bytes) -> None:
        node = body.decode()
        self._known.discard(node)
        for survey in self._surveys.values():
            survey.awaited.discard(node)
            survey.look()

    def _on_ask(self, body: bytes) -> None:
        question = msgspec.msgpack.decode(body, type=_Question)
        answerer = self._answerers.get(question.name)
        answer = None if answerer is None else answerer(question.body)
        self._hub.spawn(self._reply(question, answer), 'survey answer')

    async def _reply(self, question: _Question, answer: bytes | None) -> None:
        if answer is not None and len(answer) > _MAX_ANSWER_BYTES:
            _logger.error(
                'answer of %d bytes to the survey %r exceeds %d bytes, not sent',
                len(answer),
                question.name,
                _MAX_ANSWER_BYTES,
            )
            answer = None
        body = answer or b''
        total = 0 if answer is None else max(1, -(-len(body) // _PART_BYTES))
        try:
            for number in range(max(1, total)):
                start = number * _PART_BYTES
                part = _Part(
                    question.survey,
                    self.id,
                    number,
                    total,
                    body[start : start + _PART_BYTES],
                )
                await self.send(question.sender, _ANSWER, msgspec.msgpack.encode(part))
        except BrokerUnavailableError as ex:
            _logger.warning('survey %r not answered: %s', question.name, ex)

    def _on_answer(self, body: bytes) -> None:
        part = msgspec.msgpack.decode(body, type=_Part)
        self._known.add(part.sender)
        survey = self._surveys.get(part.survey)
        if survey is not None and 0 <= part.number < max(1, part.total):
            survey.take(part)
