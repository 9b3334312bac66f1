"""The chat application, with an additional page.

    make run
    falcon-channels serve --factory examples.chat_asgi:app

The chat is a normal Falcon app, so you can add more routes to it.
"""

import sys

from examples.hello_asgi import FOLDER
from examples.hello_asgi import hello
from falcon_channels_chat import serving


def app():
    chat = serving.app()
    chat.add_route('/hello', hello)
    chat.add_route('/ws', hello)
    chat.add_static_route('/static', FOLDER / 'static')
    return chat


if __name__ == '__main__':
    sys.exit(serving.main(factory='examples.chat_asgi:app'))
