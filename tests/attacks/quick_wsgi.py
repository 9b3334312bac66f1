"""The WSGI example, with short timeouts for clients that do not read."""

from examples.hello_wsgi import app

app.ws_options.send_timeout_s = 1.0
app.ws_options.close_timeout_s = 1.0
