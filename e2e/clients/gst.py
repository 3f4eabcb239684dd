"""A call by GStreamer's webrtcbin through one TURN server, driven by lines of JSON.

argv[1] is {"url", "username", "credential", "want"}. It prints {"offer": SDP}, reads {"answer": SDP}, and when want
messages and want packets of sound and picture have come back, prints what it counted and ends. The peer is asked to echo.
"""

import json
import sys
import threading
import urllib.parse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

PIPELINE = """webrtcbin name=call bundle-policy=max-bundle ice-transport-policy=relay
 videotestsrc is-live=true ! video/x-raw,width=160,height=120,framerate=15/1 ! vp8enc deadline=1 ! rtpvp8pay
  ! application/x-rtp,media=video,encoding-name=VP8,payload=96 ! call.
 audiotestsrc is-live=true ! audioconvert ! audioresample ! opusenc ! rtpopuspay
  ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! call."""


def say(**words):
    print(json.dumps(words), flush=True)


def turn_url(conf):
    scheme, _, rest = conf["url"].partition(":")
    quote = lambda text: urllib.parse.quote(text, safe="")  # noqa: E731
    return f"{scheme}://{quote(conf['username'])}:{quote(conf['credential'])}@{rest}"


class Call:
    def __init__(self, conf):
        self.want = conf["want"]
        self.got = {"messages": 0, "audio": 0, "video": 0}
        self.loop = GLib.MainLoop()
        self.pipe = Gst.parse_launch(PIPELINE)
        self.rtc = self.pipe.get_by_name("call")
        self.rtc.set_property("turn-server", turn_url(conf))
        self.rtc.connect("pad-added", self.on_pad)
        self.rtc.connect("on-negotiation-needed", self.on_negotiation)
        self.rtc.connect("notify::ice-gathering-state", self.on_gathering)
        self.rtc.connect("notify::ice-connection-state", self.on_state)
        self.offered = False

    def run(self):
        self.pipe.set_state(Gst.State.READY)
        self.channel = self.rtc.emit("create-data-channel", "echo", None)
        self.channel.connect("on-open", lambda c: c.emit("send-string", "0"))
        self.channel.connect("on-message-string", self.on_message)
        self.pipe.set_state(Gst.State.PLAYING)
        self.loop.run()
        say(got=self.got)
        self.pipe.set_state(Gst.State.NULL)

    def count(self, what):
        self.got[what] += 1
        if min(self.got.values()) >= self.want:
            self.loop.quit()

    def on_message(self, channel, text):
        self.count("messages")
        channel.emit("send-string", str(self.got["messages"]))

    def on_pad(self, _, pad):
        if pad.direction != Gst.PadDirection.SRC:
            return
        kind = pad.get_current_caps().get_structure(0).get_string("media")
        sink = Gst.ElementFactory.make("fakesink")
        sink.set_property("signal-handoffs", True)
        sink.set_property("sync", False)
        sink.connect("handoff", lambda *_: self.count(kind))
        self.pipe.add(sink)
        sink.sync_state_with_parent()
        pad.link(sink.get_static_pad("sink"))

    def on_negotiation(self, _):
        def made(promise, *_):
            promise.wait()
            reply = promise.get_reply()  # which owns the offer
            offer = reply["offer"]
            done = Gst.Promise.new()
            self.rtc.emit("set-local-description", offer, done)
            done.interrupt()

        self.rtc.emit("create-offer", None, Gst.Promise.new_with_change_func(made, None, None))

    def on_gathering(self, *_):
        if self.rtc.get_property("ice-gathering-state").value_nick != "complete" or self.offered:
            return
        self.offered = True
        say(offer=self.rtc.get_property("local-description").sdp.as_text())
        threading.Thread(target=self.answer, daemon=True).start()

    def answer(self):
        sdp = json.loads(sys.stdin.readline())["answer"]
        _, message = GstSdp.SDPMessage.new_from_text(sdp)
        answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
        self.rtc.emit("set-remote-description", answer, Gst.Promise.new())

    def on_state(self, *_):
        say(state=self.rtc.get_property("ice-connection-state").value_nick)


Gst.init(None)
Call(json.loads(sys.argv[1])).run()
