"""A Django app that is guarded in its own process. In yours, the last lines are those of wsgi.py."""

import logging
import time
import uuid

import jwt
from django.conf import settings as django_settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

import gateway

handler = logging.StreamHandler()
handler.setFormatter(gateway.LogFormatter("json"))
logging.basicConfig(level="INFO", handlers=[handler])


# Without it Django wants a CSRF token. A Bearer token, which no browser sends by itself, makes that needless.
@csrf_exempt
@require_POST
def login(request):
    user = request.POST["user"]  # and a password, which is your part
    now = int(time.time())
    claims = {"iss": settings.issuer, "sub": user, "iat": now, "exp": now + 900, "jti": uuid.uuid4().hex}
    return HttpResponse(f"Authorization: Bearer {jwt.encode(claims, settings.secret[0].get_secret_value())}\n")


def me(request):
    return JsonResponse({"user": request.environ["gateway.claims"]["sub"]})


@csrf_exempt
@require_POST
def logout(request):
    gate.blacklist(token=request.headers["Authorization"].split()[1], reason="logged out")
    return JsonResponse({"message": "Logged out here."})


@csrf_exempt
@require_POST
def logout_everywhere(request):
    gate.blacklist(sub=request.environ["gateway.claims"]["sub"], reason="logged out everywhere")
    return JsonResponse({"message": "Logged out everywhere."})


class Refused:
    """The blacklist could not be changed: whoever was told otherwise would be wrong."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        if isinstance(exception, gateway.Problem):
            return JsonResponse({"message": exception.detail}, status=exception.status)
        return None


urlpatterns = [
    path("login", login),
    path("me", me),
    path("logout", logout),
    path("logout/everywhere", logout_everywhere),
]
django_settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware", f"{__name__}.Refused"],
)

settings = gateway.Settings(issuer="https://shop.example/", public_paths="/login")
gate = gateway.Gateway(get_wsgi_application(), settings)
application = gateway.observe(gate)
