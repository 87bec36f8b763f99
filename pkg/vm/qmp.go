package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Event is an asynchronous message of QEMU.
type Event struct {
	Name string         `json:"event"`
	Data map[string]any `json:"data"`
}

// Error is QEMU's answer to a command that failed.
type Error struct {
	Command string `json:"-"`
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *Error) Error() string { return fmt.Sprintf("QMP %s: %s", e.Command, e.Desc) }

// maxMessage bounds one line of QMP, in bytes.
const maxMessage = 1 << 20

var errClosed = errors.New("QMP connection closed")

// qmp is a client of the QEMU Machine Protocol: JSON objects, one a line.
type qmp struct {
	conn    io.ReadWriteCloser
	onEvent func(Event)
	greeted chan struct{}
	closed  chan struct{} // after the last message
	err     error         // valid after closed

	mu      sync.Mutex
	nextID  int
	waiting map[int]chan reply
}

type reply struct {
	result json.RawMessage
	err    *Error
}

type message struct {
	Event
	QMP    json.RawMessage `json:"QMP"`
	ID     *int            `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

func newQMP(conn io.ReadWriteCloser, onEvent func(Event)) *qmp {
	q := &qmp{conn: conn, onEvent: onEvent, waiting: make(map[int]chan reply),
		greeted: make(chan struct{}), closed: make(chan struct{})}
	go q.read()
	return q
}

// handshake waits for the greeting and leaves the negotiation mode.
func (q *qmp) handshake(ctx context.Context) error {
	select {
	case <-q.greeted:
	case <-q.closed:
		return q.err
	case <-ctx.Done():
		return fmt.Errorf("no QMP greeting: %w", context.Cause(ctx))
	}
	return q.execute(ctx, "qmp_capabilities", nil, nil)
}

// execute runs a command and stores what it returns in result unless that is
// nil.
func (q *qmp) execute(ctx context.Context, command string, args, result any) error {
	answer := make(chan reply, 1)
	q.mu.Lock()
	q.nextID++
	id := q.nextID
	q.waiting[id] = answer
	err := q.send(command, args, id)
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		delete(q.waiting, id)
		q.mu.Unlock()
	}()
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	var r reply
	select {
	case r = <-answer:
	case <-q.closed:
		select {
		case r = <-answer: // the answer came first
		default:
			return fmt.Errorf("QMP %s: %w", command, q.err)
		}
	case <-ctx.Done():
		return fmt.Errorf("QMP %s: %w", command, context.Cause(ctx))
	}
	if r.err != nil {
		r.err.Command = command
		return r.err
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.result, result); err != nil {
		return fmt.Errorf("QMP %s: cannot read answer: %w", command, err)
	}
	return nil
}

// send is called with q.mu held.
func (q *qmp) send(command string, args any, id int) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, args, id})
	if err != nil {
		return err
	}
	if c, ok := q.conn.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second)) // a stopped QEMU must not stop us
	}
	_, err = q.conn.Write(append(line, '\n'))
	return err
}

// read runs until the connection ends.
func (q *qmp) read() {
	defer close(q.closed)
	defer func() { _ = q.conn.Close() }()
	s := bufio.NewScanner(q.conn)
	s.Buffer(nil, maxMessage)
	for s.Scan() {
		var m message
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			q.err = fmt.Errorf("cannot read QMP: %w", err)
			return
		}
		q.handle(m)
	}
	if q.err = s.Err(); q.err == nil {
		q.err = errClosed
	}
}

func (q *qmp) handle(m message) {
	switch {
	case m.QMP != nil:
		select {
		case <-q.greeted:
		default:
			close(q.greeted)
		}
	case m.Name != "":
		q.onEvent(m.Event)
	case m.ID != nil:
		q.mu.Lock()
		answer := q.waiting[*m.ID]
		delete(q.waiting, *m.ID)
		q.mu.Unlock()
		if answer != nil {
			answer <- reply{m.Return, m.Error}
		}
	}
}

// drained waits until everything that an ended QEMU said has been handled.
func (q *qmp) drained() {
	select {
	case <-q.closed:
	case <-time.After(time.Second):
	}
}
