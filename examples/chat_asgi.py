"""The chat application, with a page of our own beside it.

    make run
    falcon-channels serve --factory examples.chat_asgi:app

The chat is a Falcon app like any other: more routes can be added to it.
"""

import sys

from examples.hello_asgi import hello
from examples.hello_asgi import HERE
from falcon_channels_chat import serving


def app():
    chat = serving.app()
    chat.add_route('/hello', hello)
    chat.add_route('/ws', hello)
    chat.add_static_route('/static', HERE / 'static')
    return chat


if __name__ == '__main__':
    sys.exit(serving.main(factory='examples.chat_asgi:app'))
