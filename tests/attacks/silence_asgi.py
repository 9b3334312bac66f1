"""The ASGI example, and an endpoint resource with a short connect timeout."""

from examples.hello_asgi import app
from falcon_channels import Channels
from falcon_channels import EndpointOptions

Channels().add_endpoints(app, options=EndpointOptions(connect_timeout_s=1.0))

__all__ = ['app']
