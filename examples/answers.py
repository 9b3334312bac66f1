"""Answers that are written word by word, and survive a reload of their page.

    falcon-channels serve examples.answers:app

`/` is a page with a plain EventSource, and `/react` a page with the Vercel AI SDK. To
use a real model, replace `generate`. docs/answers.md explains all parts.
"""

import asyncio
import os
from pathlib import Path
from uuid import uuid4

import falcon
import falcon.asgi

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EventStreamOptions

FOLDER = Path(__file__).resolve().parent
SECONDS_PER_WORD = float(os.environ.get('SECONDS_PER_WORD', '0.1'))
#: All chunks from the first one, for a client without a position.
FROM_START = EventStreamOptions(history=None)
#: The same for the AI SDK, which does not know an event `end`.
FOR_AI_SDK = EventStreamOptions(history=None, end_event='')

channels = Channels(os.environ.get('BROKER', 'sqlite:///answers.db'))
a_day = ChannelOptions(history_size=10_000, history_ttl_s=86_400, recovery_limit=10_000)
channels.add_route('answers:{answer}', None, a_day)
channels.add_route('chats:{chat}', None, a_day)


async def generate(question):
    """Yield an answer in small pieces. Put your model here."""
    for number in range(1, 31):
        await asyncio.sleep(SECONDS_PER_WORD)
        yield f'word {number} about {question}, '
    yield 'and that is all.'


# --- answers for a plain EventSource -------------------------------------------------


async def write_answer(channel, question):
    """Write an answer as text."""
    async with channels.stream(channel) as stream:
        async for text in generate(question):
            await stream.write(text)


class Answers:
    async def on_post(self, req, resp):
        question = (await req.get_media())['question']
        answer = uuid4().hex
        run(write_answer(f'answers:{answer}', question))
        resp.status = falcon.HTTP_201
        resp.media = {'answer': answer}


class Answer:
    async def on_get(self, req, resp, answer):
        await channels.serve_events(req, resp, f'answers:{answer}', options=FROM_START)

    async def on_delete(self, req, resp, answer):
        await channels.abort_stream(f'answers:{answer}')
        resp.status = falcon.HTTP_204


# --- chats for the AI SDK ------------------------------------------------------------


async def write_message(channel, answer, question):
    """Write an answer as parts of the AI SDK."""
    async with channels.stream(channel) as stream:
        await stream.write({'type': 'start', 'messageId': answer})
        await stream.write({'type': 'text-start', 'id': 'text'})
        async for text in generate(question):
            await stream.write({'type': 'text-delta', 'id': 'text', 'delta': text})
        await stream.write({'type': 'text-end', 'id': 'text'})
        await stream.write({'type': 'finish'})


class Messages:
    """The messages of a chat, without an answer that is still written."""

    async def on_get(self, req, resp, chat):
        page = await channels.history(f'chats:{chat}', limit=None)
        messages = []
        for turn in page.publications:
            turn = turn.value()
            messages.append(turn['question'])
            answer = await channels.history(f'answers:{turn["answer"]}', limit=None)
            if answer.end is None:
                continue
            chunks = [item.value() for item in answer.publications if item.data]
            text = ''.join(chunk.get('delta', '') for chunk in chunks)
            messages.append(
                {
                    'id': turn['answer'],
                    'role': 'assistant',
                    'parts': [{'type': 'text', 'text': text}],
                }
            )
        resp.media = messages


class Chat:
    """The endpoint to which the AI SDK sends messages."""

    async def on_post(self, req, resp):
        request = await req.get_media()
        question, answer = request['messages'][-1], uuid4().hex
        text = ''.join(part.get('text', '') for part in question['parts'])
        turn = {'question': question, 'answer': answer}
        await channels.publish(f'chats:{request["id"]}', turn)
        run(write_message(f'answers:{answer}', answer, text))
        await serve_answer(req, resp, answer)


class NewestAnswer:
    """The endpoint from which the AI SDK resumes."""

    async def on_get(self, req, resp, chat):
        answer = await newest_answer(chat)
        if answer is None:
            resp.status = falcon.HTTP_204
        else:
            await serve_answer(req, resp, answer)

    async def on_delete(self, req, resp, chat):
        answer = await newest_answer(chat)
        if answer is not None:
            await channels.abort_stream(f'answers:{answer}')
        resp.status = falcon.HTTP_204


async def newest_answer(chat):
    page = await channels.history(f'chats:{chat}', limit=1, reverse=True)
    return page.publications[0].value()['answer'] if page.publications else None


async def serve_answer(req, resp, answer):
    resp.set_header('x-vercel-ai-ui-message-stream', 'v1')
    await channels.serve_events(req, resp, f'answers:{answer}', options=FOR_AI_SDK)


# --- the app -------------------------------------------------------------------------

tasks = set()


def run(coroutine):
    """Run a coroutine that does not end with its request."""
    task = asyncio.create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


class Page:
    def __init__(self, path):
        self.path = path

    async def on_get(self, req, resp):
        resp.content_type = falcon.MEDIA_HTML
        resp.text = self.path.read_text()


app = falcon.asgi.App(middleware=[channels])
app.add_route('/', Page(FOLDER / 'static/answers.html'))
app.add_route('/answers', Answers())
app.add_route('/answers/{answer}', Answer())
app.add_route('/react', Page(FOLDER / 'answers_react/index.html'))
app.add_route('/api/chat', Chat())
app.add_route('/api/chat/{chat}', Messages())
app.add_route('/api/chat/{chat}/stream', NewestAnswer())
app.add_static_route('/build', FOLDER / 'answers_react/build')
