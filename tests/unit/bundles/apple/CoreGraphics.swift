// Declarations of Apple's CoreGraphics, as its documentation has them and as far as our sources use them. Foundation's
// types stand for the CoreFoundation types that Swift bridges them to on Apple's systems.

@_exported import Foundation

public typealias CFData = Data
public typealias CFDictionary = [AnyHashable: Any]
public typealias CFString = NSString

public enum CGColorSpaceModel: Int32 { case unknown = -1, monochrome, rgb, cmyk, lab }
public final class CGColorSpace {
    public static let sRGB: CFString = "kCGColorSpaceSRGB"
    public init?(name: CFString) {}
    public var model: CGColorSpaceModel { fatalError() }
    public var supportsOutput: Bool { fatalError() }
}
public enum CGImageAlphaInfo: UInt32 { case none, premultipliedLast, last, noneSkipLast }
public enum CGInterpolationQuality: Int32 { case `default`, none, low, high, medium }
public final class CGImage {
    public var width: Int { fatalError() }
    public var height: Int { fatalError() }
    public var colorSpace: CGColorSpace? { fatalError() }
}
public final class CGContext {
    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int,
        space: CGColorSpace, bitmapInfo: UInt32
    ) {}
    public var data: UnsafeMutableRawPointer? { fatalError() }
    public var bytesPerRow: Int { fatalError() }
    public func makeImage() -> CGImage? { fatalError() }
    public var interpolationQuality: CGInterpolationQuality = .default
    public func draw(_ image: CGImage, in rect: CGRect) {}
}
