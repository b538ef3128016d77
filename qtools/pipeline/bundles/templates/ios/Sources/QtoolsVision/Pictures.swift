// Pictures from files and camera frames, as they are stored: nothing is scaled and no colour is matched on the way.

#if canImport(CoreML)
import CoreGraphics
import CoreVideo
import Foundation
import ImageIO
import QtoolsPreparation

extension Picture {
    /// Decodes a PNG, JPEG or HEIC and turns it upright. Decoders of JPEG differ among each other by a few levels.
    public init(encoded: Data) throws {
        guard let source = CGImageSourceCreateWithData(encoded as CFData, nil),
            let image = CGImageSourceCreateImageAtIndex(source, 0, nil)
        else { throw Mismatch(what: "these bytes are no picture") }
        let facts = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
        let exif = (facts?[kCGImagePropertyOrientation] as? NSNumber)?.intValue ?? 1
        self = upright(try Picture(image), exif: exif)
    }

    /// The pixels of an image. Drawn into its own colour space, so that numbers stay what the file says.
    public init(_ image: CGImage) throws {
        let height = image.height
        let width = image.width
        let own = image.colorSpace.flatMap { $0.model == .rgb && $0.supportsOutput ? $0 : nil }
        guard let space = own ?? CGColorSpace(name: CGColorSpace.sRGB) else {
            throw Mismatch(what: "there is no colour space for this picture")
        }
        var rgbx = [UInt8](repeating: 0, count: 4 * height * width)
        let drawn = rgbx.withUnsafeMutableBytes { memory -> Bool in
            guard let context = CGContext(
                data: memory.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
                space: space, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            else { return false }
            context.interpolationQuality = .none
            context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
            return true
        }
        guard drawn else { throw Mismatch(what: "this picture cannot be drawn into 8 bits per channel") }
        self.init(height: height, width: width, rgb: (0..<3 * height * width).map { rgbx[$0 / 3 * 4 + $0 % 3] })
    }

    /// For a view; its numbers are taken as sRGB.
    public func image() throws -> CGImage {
        guard let space = CGColorSpace(name: CGColorSpace.sRGB),
            let context = CGContext(
                data: nil, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 0, space: space,
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue),
            let memory = context.data
        else { throw Mismatch(what: "there is no room for a picture of \(width) x \(height)") }
        for y in 0..<height {
            let row = memory.advanced(by: y * context.bytesPerRow).assumingMemoryBound(to: UInt8.self)
            for x in 0..<width {
                for channel in 0..<3 { row[4 * x + channel] = rgb[3 * (y * width + x) + channel] }
            }
        }
        guard let image = context.makeImage() else { throw Mismatch(what: "this picture cannot be shown") }
        return image
    }

    /// A frame of the camera. Ask AVCaptureVideoDataOutput for kCVPixelFormatType_32BGRA, and turn it upright.
    public init(frame: CVPixelBuffer, exif: Int = 1) throws {
        guard CVPixelBufferGetPixelFormatType(frame) == kCVPixelFormatType_32BGRA else {
            throw Mismatch(what: "a frame has to be 32BGRA: other formats need a conversion that the app chooses")
        }
        CVPixelBufferLockBaseAddress(frame, .readOnly)
        defer { CVPixelBufferUnlockBaseAddress(frame, .readOnly) }
        guard let base = CVPixelBufferGetBaseAddress(frame) else { throw Mismatch(what: "the frame has no memory") }
        let height = CVPixelBufferGetHeight(frame)
        let width = CVPixelBufferGetWidth(frame)
        let rowBytes = CVPixelBufferGetBytesPerRow(frame)
        var rgb: [UInt8] = []
        rgb.reserveCapacity(3 * height * width)
        for y in 0..<height {
            let row = base.advanced(by: y * rowBytes).assumingMemoryBound(to: UInt8.self)
            for x in 0..<width {
                rgb.append(row[4 * x + 2])
                rgb.append(row[4 * x + 1])
                rgb.append(row[4 * x])
            }
        }
        self = upright(Picture(height: height, width: width, rgb: rgb), exif: exif)
    }
}

/// A pixel buffer of exactly these bytes, 32BGRA, for a model whose input is an image of this size.
func pixelBuffer(_ bytes: [UInt8], height: Int, width: Int) throws -> CVPixelBuffer {
    var made: CVPixelBuffer?
    let wanted = [kCVPixelBufferIOSurfacePropertiesKey: [:] as CFDictionary] as CFDictionary
    let status = CVPixelBufferCreate(nil, width, height, kCVPixelFormatType_32BGRA, wanted, &made)
    guard status == kCVReturnSuccess, let buffer = made else {
        throw Mismatch(what: "a pixel buffer of \(width) x \(height) ends in status \(status)")
    }
    CVPixelBufferLockBaseAddress(buffer, [])
    defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
    guard let base = CVPixelBufferGetBaseAddress(buffer) else { throw Mismatch(what: "a pixel buffer has no memory") }
    let rowBytes = CVPixelBufferGetBytesPerRow(buffer)
    bytes.withUnsafeBytes { memory in
        guard let first = memory.baseAddress else { return }
        for y in 0..<height {
            base.advanced(by: y * rowBytes).copyMemory(from: first.advanced(by: 4 * width * y), byteCount: 4 * width)
        }
    }
    return buffer
}
#endif
