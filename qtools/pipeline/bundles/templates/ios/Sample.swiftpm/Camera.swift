// The frames of the camera on the phone's back, upright in portrait. Those that come while one is answered are dropped.

import AVFoundation
import QtoolsPreparation
import QtoolsVision

/// Hands frames on, from a queue of its own, on which the session starts and stops as well.
final class Camera: NSObject, AVCaptureVideoDataOutputSampleBufferDelegate, @unchecked Sendable {
    private let session = AVCaptureSession()
    private let queue = DispatchQueue(label: "qtools.sample.camera")
    private let take: @Sendable (Result<Picture, Error>) -> Void

    init(_ take: @escaping @Sendable (Result<Picture, Error>) -> Void) {
        self.take = take
    }

    /// Asks for the permission, and throws where it is not given or no camera is there.
    func start() async throws {
        guard await AVCaptureDevice.requestAccess(for: .video) else {
            throw Unseen(why: "no camera without the permission")
        }
        guard let device = AVCaptureDevice.default(.builtInWideAngleCamera, for: .video, position: .back) else {
            throw Unseen(why: "there is no camera")
        }
        try connect(try AVCaptureDeviceInput(device: device))
        queue.async { self.session.startRunning() }
    }

    private func connect(_ input: AVCaptureDeviceInput) throws {
        let output = AVCaptureVideoDataOutput()
        output.videoSettings = [kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_32BGRA]
        output.setSampleBufferDelegate(self, queue: queue)
        session.beginConfiguration()
        defer { session.commitConfiguration() }
        session.sessionPreset = .vga640x480
        guard session.canAddInput(input), session.canAddOutput(output) else {
            throw Unseen(why: "the camera gives no frames")
        }
        session.addInput(input)
        session.addOutput(output)
        guard let connection = output.connection(with: .video), connection.isVideoRotationAngleSupported(90) else {
            throw Unseen(why: "the camera's frames cannot be turned upright")
        }
        connection.videoRotationAngle = 90
    }

    func stop() {
        queue.async { self.session.stopRunning() }
    }

    func captureOutput(
        _ output: AVCaptureOutput, didOutput sampleBuffer: CMSampleBuffer, from connection: AVCaptureConnection
    ) {
        guard let frame = CMSampleBufferGetImageBuffer(sampleBuffer) else { return }
        take(Result { try Picture(frame: frame) })
    }
}

/// Why there are no frames.
struct Unseen: Error, CustomStringConvertible {
    let why: String
    var description: String { why }
}
