"""A WHIP client of GStreamer's webrtcbin, as a program for a Python that has its bindings (gi).

    python3 gstreamer_whip.py URL WAV [SECONDS]

Posts its offer before it has any candidate and sends them by PATCH, says what is in WAV, and writes
as JSON what came of it: the statuses, and how much of the answer was heard (sendrecv).
"""

import array
import importlib
import json
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

gi: Any = importlib.import_module("gi")
gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
GLib, Gst, GstSdp, GstWebRTC = (
    importlib.import_module(f"gi.repository.{name}")
    for name in ("GLib", "Gst", "GstSdp", "GstWebRTC")
)

LOUD = 1000
HZ = 48_000
SAY = (
    "filesrc location={wav} ! wavparse ! audioconvert ! audioresample ! audio/x-raw,rate=48000 "
    "! mix.  audiotestsrc wave=silence is-live=true ! audio/x-raw,rate=48000 ! audiomixer name=mix "
    "! opusenc ! rtpopuspay pt=97 ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97 "
    "! webrtcbin name=webrtc bundle-policy=max-bundle"
)


class Client:
    """One call; runs until it has heard enough or the time is over."""

    def __init__(self, url: str, wav: str, seconds: float) -> None:
        self.result: dict[str, Any] = {"patched": [], "heard_s": 0.0, "state": ""}
        self._url = url
        self._seconds = seconds
        self._session = ""
        self._tag = ""
        self._candidates: list[str] = []
        self._credentials: list[str] = []
        self._reply: Any = None
        self._loop = GLib.MainLoop()
        self._pipeline = Gst.parse_launch(SAY.format(wav=wav))
        self._webrtc = self._pipeline.get_by_name("webrtc")
        self._webrtc.connect("on-negotiation-needed", self._negotiate)
        self._webrtc.connect("on-ice-candidate", self._candidate)
        self._webrtc.connect("pad-added", self._listen)
        self._webrtc.connect("notify::connection-state", self._state)

    def run(self) -> None:
        self._pipeline.set_state(Gst.State.PLAYING)
        GLib.timeout_add(int(self._seconds * 1000), self._loop.quit)
        self._loop.run()
        if self._session:
            self.result["deleted"] = self._request("DELETE", self._session)[0]
        self._pipeline.set_state(Gst.State.NULL)

    def _negotiate(self, element: Any) -> None:
        element.emit("create-offer", None, Gst.Promise.new_with_change_func(self._offered, None))

    def _offered(self, promise: Any, _: Any) -> None:
        # What it holds is not copied, so the reply must outlive it.
        self._reply = promise.get_reply()
        offer = self._reply.get_value("offer")
        sdp = offer.sdp.as_text()
        lines = sdp.splitlines()
        self._credentials = [
            line for line in lines if line.startswith(("a=ice-ufrag", "a=ice-pwd"))
        ]
        status, headers, answer = self._request("POST", self._url, sdp, "application/sdp")
        self.result["posted"] = status
        if status != 201:
            self.result["error"] = answer
            GLib.idle_add(self._loop.quit)
            return
        self._session = urllib.parse.urljoin(self._url, headers["Location"])
        self._tag = headers["ETag"]
        self._webrtc.emit("set-local-description", offer, None)
        _, message = GstSdp.SDPMessage.new()
        GstSdp.sdp_message_parse_buffer(answer.encode(), message)
        kind = GstWebRTC.WebRTCSDPType.ANSWER
        described = GstWebRTC.WebRTCSessionDescription.new(kind, message)
        self._webrtc.emit("set-remote-description", described, None)

    def _candidate(self, element: Any, line: int, candidate: str) -> None:
        if not candidate:
            return
        parts = [*dict.fromkeys(self._credentials), "m=audio 9 RTP/AVP 0", "a=mid:audio0"]
        fragment = "\r\n".join([*parts, f"a={candidate}", ""])
        threading.Thread(target=self._trickle, args=(fragment,)).start()

    def _trickle(self, fragment: str) -> None:
        kind = "application/trickle-ice-sdpfrag"
        self.result["patched"].append(self._request("PATCH", self._session, fragment, kind)[0])

    def _listen(self, element: Any, pad: Any) -> None:
        if pad.direction != Gst.PadDirection.SRC:
            return
        caps = f"audio/x-raw,format=S16LE,channels=1,rate={HZ}"
        text = f"rtpopusdepay ! opusdec ! audioconvert ! audioresample ! {caps} ! fakesink name=ear"
        ear = Gst.parse_bin_from_description(f"{text} signal-handoffs=true sync=false", True)
        ear.get_by_name("ear").connect("handoff", self._hear)
        self._pipeline.add(ear)
        ear.sync_state_with_parent()
        pad.link(ear.get_static_pad("sink"))

    def _hear(self, sink: Any, buffer: Any, pad: Any) -> None:
        samples = array.array("h", buffer.extract_dup(0, buffer.get_size()))
        if samples and max(abs(sample) for sample in samples) > LOUD:
            self.result["heard_s"] = round(self.result["heard_s"] + len(samples) / HZ, 3)
        if self.result["heard_s"] > 0.5:
            GLib.idle_add(self._loop.quit)

    def _state(self, element: Any, _: Any) -> None:
        self.result["state"] = element.get_property("connection-state").value_nick
        if self.result["state"] == "failed":
            GLib.idle_add(self._loop.quit)

    def _request(
        self, method: str, url: str, body: str = "", kind: str = ""
    ) -> tuple[int, Any, str]:
        headers = {"Content-Type": kind, "If-Match": self._tag} if kind else {}
        request = urllib.request.Request(url, body.encode() or None, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()


def main() -> None:
    Gst.init(None)
    url, wav, *seconds = sys.argv[1:]
    client = Client(url, wav, float(seconds[0]) if seconds else 20.0)
    client.run()
    client.result["version"] = Gst.version_string()
    sys.stdout.write(json.dumps(client.result) + "\n")


if __name__ == "__main__":
    main()
