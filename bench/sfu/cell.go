package main

import "time"

// The ways from a person to an SFU.
const (
	wayDirect = "direct"
	wayRelay  = "relay"
)

var ways = []string{wayDirect, wayRelay}

// What everybody sends. A frame of video leaves at once, as pion's samples do: 1.2 Mbit/s in packets of 1,000 bytes.
const (
	audioEvery  = 20 * time.Millisecond
	silentEvery = 400 * time.Millisecond // Opus's DTX
	frameEvery  = time.Second / 30
	frameParts  = 5
	audioBytes  = 120
	videoBytes  = 1000
	frameWidth  = 640
	frameHeight = 360
)

// cell is one room's shape. A load is so many of those rooms at once: a level of 2.5 is three of them in which
// everything is sent at 0.83 of its rate, so that frames stay what they are.
type cell struct {
	name      string
	title     string
	speaking  int     // people who send audio and video
	silent    int     // who send the little audio of a microphone that hears nothing
	listening int     // who send nothing
	light     float64 // the level at which a server has little to do
	start     float64 // the level from which the load is raised
	most      int     // rooms
}

var cells = []cell{
	{name: "50", title: "one speaks, 50 listen", speaking: 1, listening: 50, light: 1, start: 3, most: 14},
	{name: "300", title: "one speaks, 300 listen", speaking: 1, listening: 300, light: 0.2, start: 0.5, most: 3},
	{name: "conference", title: "ten all see each other", speaking: 10, light: 0.5, start: 1.5, most: 8},
	{name: "speaking", title: "50 people, three of them speak", speaking: 3, silent: 47, light: 0.25, start: 0.75, most: 4},
}

func cellNames() []string {
	var out []string
	for _, c := range cells {
		out = append(out, c.name)
	}
	return out
}

// lightOf is that level where relays share the server's core.
func (c cell) lightOf(way string) float64 {
	if way == wayRelay {
		return c.light / 2
	}
	return c.light
}

func (c cell) people() int { return c.speaking + c.silent + c.listening }

// spread is how many rooms a level takes, and at which part of its rate each of them sends.
func spread(level float64) (rooms int, scale float64) {
	for rooms = 1; float64(rooms) < level; rooms++ {
	}
	return rooms, level / float64(rooms)
}
