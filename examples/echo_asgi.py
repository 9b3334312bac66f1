import falcon.asgi

from falcon_channels import OriginCheck


class Echo:
    async def on_websocket(self, req, ws):
        await ws.accept()
        while True:
            await ws.send_text(f'Message text was: {await ws.receive_text()}')


app = falcon.asgi.App(middleware=[OriginCheck()])
app.add_route('/', Echo())
