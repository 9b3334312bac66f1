from falcon_channels.wsgi import App


class Echo:
    def on_websocket(self, req, ws):
        while True:
            ws.send(f'Message text was: {ws.receive()}')


app = App()
app.add_route('/', Echo())
