"""gunicorn for applications that the server is compared with: WSGI on threads, without its Django project."""

from runqy.gunicorn_conf import control_socket_disable, keepalive, worker_tmp_dir, workers

__all__ = ["control_socket_disable", "keepalive", "threads", "worker_class", "worker_tmp_dir", "workers"]

worker_class = "gthread"
threads = 4
