"""A room with Django Channels, in the memory of one process, as its tutorial has it."""

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from channels.routing import URLRouter
import django
from django.conf import settings
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=['*'],
    CHANNEL_LAYERS={
        'default': {
            'BACKEND': 'channels.layers.InMemoryChannelLayer',
            'CONFIG': {'capacity': 100_000},
        }
    },
    INSTALLED_APPS=['channels'],
    SECRET_KEY='only for a benchmark on loopback',
)
django.setup()


class Subscriber(AsyncWebsocketConsumer):
    """Gets what is sent to the group."""

    async def connect(self):
        await self.channel_layer.group_add('room', self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard('room', self.channel_name)

    async def room_message(self, event):
        await self.send(text_data=event['text'])


class Publisher(AsyncWebsocketConsumer):
    """Sends to the group."""

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send(
            'room', {'type': 'room.message', 'text': text_data}
        )


app = ProtocolTypeRouter(
    {
        'websocket': URLRouter(
            [path('sub', Subscriber.as_asgi()), path('pub', Publisher.as_asgi())]
        )
    }
)
